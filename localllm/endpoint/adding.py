"""A server elsewhere gets a name here: its address is checked, and it is asked what it offers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from localllm.endpoints import Endpoint, EndpointGenerator, Key, Listed, RequestRefused, key_of
from localllm.endpoints.endpoint import Kind
from localllm.errors import SourceNotFound, UsageProblem
from localllm.library.endpoints import check_online
from localllm.registry import Registry
from localllm.registry.endpoints import Endpoints

_SHOWN = 8  # models of a server that a message names
_ASKED = "?"  # stands for the model until the server was asked


@dataclass(frozen=True)
class Added:
    """`offered` are the models that the server lists, None where it was not asked or lists none;
    `listed_s` what the question took. `key_from` says where the key is."""

    name: str
    url: str
    model: str
    kind: str
    key_from: str | None
    n_ctx: int | None
    offered: tuple[str, ...] | None
    listed_s: float | None


def add_endpoint(
    registry: Registry,
    wanted: Endpoint,
    warn: Callable[[str], None],
    *,
    kind_said: bool,
    check: bool,
    replaces: bool,
) -> Added:
    """Keep `wanted`, whose model "" is to be found out. With `check` the server is asked what it
    offers: the model must be among it, and its kind and context are taken from there where
    nobody said them.

    Raises UsageProblem for a name that is taken or a model that has to be chosen, SourceNotFound
    with the nearest names for one that is not offered, and what asking raises.
    """
    endpoints = Endpoints.of(registry)
    if endpoints.find(wanted.name) is not None and not replaces:
        raise UsageProblem(f"there is an endpoint {wanted.name} already", "--replace")
    if not wanted.model and not check:
        raise UsageProblem("without asking the server (--no-check) the model has to be named",
                           "--model NAME")  # fmt: skip
    listed: Listed | None = None
    if check:
        check_online(wanted)
        key = key_of(wanted.key)
        listed = _listed(wanted, key, warn)
        wanted = _completed(wanted, listed, kind_said)
    if not wanted.model:
        raise UsageProblem(f"{wanted.host} does not list its models", "--model NAME")
    _advise(wanted, warn)
    endpoints.add(wanted.name, wanted.as_data(), replace=replaces)
    offered = tuple(one.id for one in listed.models) if listed and listed.models else None
    key_from = None if wanted.key is None else str(wanted.key)
    return Added(
        wanted.name, wanted.url, wanted.model, wanted.kind, key_from, wanted.n_ctx, offered,
        listed.took_s if listed else None,
    )  # fmt: skip


def _listed(wanted: Endpoint, key: Key | None, warn: Callable[[str], None]) -> Listed | None:
    """None where the server answers and has no list."""
    with closing(EndpointGenerator(replace(wanted, model=wanted.model or _ASKED), key)) as asked:
        try:
            return asked.models()
        except RequestRefused as error:
            if error.status not in (404, 405) or not wanted.model:
                raise
            warn(f"{wanted.host} does not list its models: {wanted.model} was not looked up")
            return None


def _completed(wanted: Endpoint, listed: Listed | None, kind_said: bool) -> Endpoint:
    if listed is None:
        return wanted
    if not kind_said and listed.kind is not None:
        wanted = replace(wanted, kind=listed.kind)
    names = [one.id for one in listed.models]
    if not wanted.model:
        if len(names) != 1:
            raise _choose(wanted, names)
        wanted = replace(wanted, model=names[0])
    found = next((one for one in listed.models if one.id == wanted.model), None)
    if found is None and names:
        raise _unknown(wanted, names)
    if found is not None and wanted.n_ctx is None:
        wanted = replace(wanted, n_ctx=found.n_ctx)
    return wanted


def _choose(wanted: Endpoint, names: Sequence[str]) -> UsageProblem:
    if not names:
        return UsageProblem(f"{wanted.host} offers no model now", "--model NAME --no-check")
    return UsageProblem(f"{wanted.host} offers {_listing(names)}", f"--model {names[0]}")


def _unknown(wanted: Endpoint, names: Sequence[str]) -> SourceNotFound:
    near = _nearest(wanted.model, names)
    said = f"near: {', '.join(near)}" if near else f"it offers {_listing(names)}"
    return SourceNotFound(
        f"{wanted.host} offers no model {wanted.model!r}; {said}", f"--model {(near or names)[0]}"
    )


def _nearest(text: str, names: Sequence[str]) -> list[str]:
    """By the whole name, or by what stands after its last slash."""
    lowered = {name.casefold(): name for name in names}
    shorts = {name.casefold().rpartition("/")[2]: name for name in names}
    near = difflib.get_close_matches(text.casefold(), [*lowered, *shorts], n=3)
    within = [name for low, name in lowered.items() if text.casefold() in low][:3]
    return list(dict.fromkeys([*(lowered.get(n) or shorts[n] for n in near), *within]))[:3]


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _advise(wanted: Endpoint, warn: Callable[[str], None]) -> None:
    if wanted.is_this_machine:
        return
    warn(f"what is said to {wanted.name} leaves this machine, to {wanted.host}")
    if wanted.key is not None and wanted.url.startswith("http:"):
        warn("over http:// the key and everything said can be read on the way; https:// cannot")


def kind_of(text: str | None) -> Kind:
    """Raises UsageProblem."""
    from localllm.endpoints import KINDS

    if text is None:
        return "openai"
    if text not in KINDS:
        raise UsageProblem(f"--kind {text!r} is none of {', '.join(KINDS)}")
    return text  # type: ignore[return-value]
