"""Endpoints of the registry, as those who answer."""

from __future__ import annotations

import difflib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm import config
from localllm.errors import DamagedFile, NotFound, OfflineMode
from localllm.registry import Registry
from localllm.registry.endpoints import Endpoints, KeptEndpoint

if TYPE_CHECKING:
    from localllm.endpoints import Endpoint, EndpointClient, EndpointGenerator, Wanted
    from localllm.library.lending import Lender


@dataclass(frozen=True)
class FarEndpoint:
    """A library.answering.Far."""

    endpoint: Endpoint

    @property
    def name(self) -> str:
        return self.endpoint.name

    @property
    def kind(self) -> str:
        return "endpoint"

    @property
    def where(self) -> str:
        return f"{self.endpoint.model} at {self.endpoint.host}"

    @property
    def n_ctx(self) -> int | None:
        return self.endpoint.n_ctx

    @property
    def added_at(self) -> float:
        return self.endpoint.added_at

    def unsent(self, wanted: Wanted) -> tuple[str, ...]:
        from localllm.endpoints import unsent

        return unsent(self.endpoint, wanted.sampling, wanted.given)

    def open(self) -> EndpointGenerator:
        """Raises AccessDenied for a key that is not there, MissingExtra, OfflineMode."""
        from localllm.endpoints import EndpointGenerator

        check_online(self.endpoint)
        return EndpointGenerator(self.endpoint)

    def client(self, lender: Lender | None = None) -> EndpointClient:
        """The same for an event loop."""
        from localllm.endpoints import EndpointClient, key_of

        check_online(self.endpoint)
        return EndpointClient(self.endpoint, key_of(self.endpoint.key))


class EndpointKind:
    """A library.answering.FarKind."""

    name = "endpoint"

    def find(self, text: str, registry: Registry) -> FarEndpoint | None:
        kept = Endpoints.of(registry).find(text)
        return None if kept is None else FarEndpoint(_endpoint(kept))

    def list(self, registry: Registry) -> tuple[FarEndpoint, ...]:
        return tuple(map(FarEndpoint, all_endpoints(registry)))


ENDPOINTS = EndpointKind()


def check_online(endpoint: Endpoint) -> None:
    """Raise OfflineMode where a setting keeps from asking it."""
    if config.load().offline and not endpoint.is_this_machine:
        raise OfflineMode(
            f"the network is switched off by a setting; {endpoint.name} is on {endpoint.host}",
            "unset LOCALLLM_OFFLINE and HF_HUB_OFFLINE",
        )


def find_endpoint(name: str, registry: Registry) -> Endpoint:
    """Raises NotFound with the nearest names, DamagedFile."""
    endpoints = Endpoints.of(registry)
    kept = endpoints.find(name)
    if kept is not None:
        return _endpoint(kept)
    names = {one.name.casefold(): one.name for one in endpoints.list()}
    near = [names[n] for n in difflib.get_close_matches(name.casefold(), [*names], n=3)]
    raise NotFound(
        f"no endpoint {name!r} here" + (f"; near: {', '.join(near)}" if near else ""),
        "localllm endpoint list" if names else "localllm endpoint add NAME --url URL",
    )


def all_endpoints(registry: Registry) -> tuple[Endpoint, ...]:
    """All endpoints that this version can read, by name."""
    found = []
    for kept in Endpoints.of(registry).list():
        with suppress(DamagedFile):
            found.append(_endpoint(kept))
    return tuple(found)


def _endpoint(kept: KeptEndpoint) -> Endpoint:
    from localllm.endpoints import Endpoint

    return Endpoint.from_data(kept.name, kept.data, kept.added_at)
