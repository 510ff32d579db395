"""Routers as those who answer to a name: `router:NAME`, `router/NAME`, `router/NAME@0.4`.

library.answering finds them by KINDS, so chat and serve know them without importing this room.
Looking a name up imports nothing heavy: completion waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from localllm.registry import Registry
from localllm.registry.routers import Routers
from localllm.route.naming import is_router, parse_named

if TYPE_CHECKING:
    from localllm.endpoints import Wanted
    from localllm.library.lending import Lender
    from localllm.route.answering.client import RouterClient
    from localllm.route.answering.routed import RoutedGenerator


@dataclass(frozen=True)
class FarRouter:
    """A library.answering.Far. `version` makes a router that was changed another one."""

    registry: Registry
    text: str  # NAME[@THRESHOLD]
    version: int
    added_at: float

    @property
    def name(self) -> str:
        return f"router/{self.text}"

    @property
    def kind(self) -> str:
        return "router"

    @property
    def where(self) -> str:
        """Raises UsageProblem, FileGone for a router that cannot be read."""
        from localllm.route.opening import read_version

        kept = Routers(self.registry).find(parse_named(self.text).name)
        members = ", ".join(one.name for one in read_version(kept.current).members)
        return f"routes between {members}"

    @property
    def n_ctx(self) -> int | None:
        return None

    def unsent(self, wanted: Wanted) -> tuple[str, ...]:
        """Which member answers is not known yet, and those here know everything."""
        return ()

    def open(self) -> RoutedGenerator:
        """Raises NotFound for a member that is gone, UsageProblem for one that was not trained."""
        from localllm.route.answering.client import open_generator

        return open_generator(self.registry, self.text)

    def client(self, lender: Lender | None = None) -> RouterClient:
        """The same on an event loop; `lender` has the models that a server holds anyway."""
        from localllm.route.answering.client import RouterClient, open_generator

        return RouterClient(open_generator(self.registry, self.text, lender=lender))

    def at(self, threshold: str) -> FarRouter:
        """The same with another threshold, as `router/NAME@0.4` says it. Raises UsageProblem."""
        named = parse_named(f"{parse_named(self.text).name}@{threshold}")
        # two decimals: clients choose the number, and each is a client of its own in `serve`
        return replace(self, text=f"{named.name}@{round(named.threshold or 0.0, 2):g}")


class RouterKind:
    """A library.answering.FarKind."""

    name = "router"

    def find(self, text: str, registry: Registry) -> FarRouter | None:
        """Raises NotFound with the nearest name for a router that is not there."""
        if not is_router(text):
            return None
        named = parse_named(text)
        kept = Routers(registry).find(named.name)
        number = "" if named.threshold is None else f"@{named.threshold:g}"
        return FarRouter(registry, f"{kept.name}{number}", kept.version, kept.added_at)

    def list(self, registry: Registry) -> tuple[FarRouter, ...]:
        found = Routers(registry).list()
        return tuple(FarRouter(registry, one.name, one.version, one.added_at) for one in found)


ROUTERS = RouterKind()
