"""endpoint add, list, show, rm, check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from localllm.endpoint.adding import Added, add_endpoint, kind_of
from localllm.endpoint.checking import Checked, check_endpoint
from localllm.endpoints import Endpoint, KeySource, checked_name, checked_url, key_of
from localllm.errors import LocalLLMError, NotFound, UsageProblem
from localllm.library.endpoints import all_endpoints, find_endpoint
from localllm.registry import Registry
from localllm.registry.endpoints import Endpoints
from localllm.ui import Fields, Moment, Note, Seconds, Sink, Table, View


def complete_endpoint(incomplete: str) -> list[str]:
    """Names that begin with `incomplete`. Never fails: the shell is waiting."""
    try:
        names = [one.name for one in Endpoints.of(Registry.open()).list()]
    except LocalLLMError:
        return []
    return [name for name in names if name.casefold().startswith(incomplete.casefold())]


Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Its name here.", autocompletion=complete_endpoint),
]


@dataclass(frozen=True)
class ShownEndpoint:
    """`key_present` None: it needs no key. The key itself is shown nowhere."""

    name: str
    url: str
    model: str
    kind: str
    key_from: str | None
    key_present: bool | None
    price_in: float | None
    price_out: float | None
    n_ctx: int | None
    timeout_s: float | None
    total_s: float | None
    this_machine: bool
    added_at: float


@dataclass(frozen=True)
class RemovedEndpoints:
    names: tuple[str, ...]


def add_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called here.")],
    url: Annotated[str, typer.Option("--url", help="Where its API is: http://host:8000/v1")] = "",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="REMOTE",
            help="Its name on the server; default the only one.",
        ),
    ] = None,
    key_env: Annotated[
        str | None,
        typer.Option(
            "--key-env", metavar="VAR", help="The environment variable that holds the key."
        ),
    ] = None,
    keyring: Annotated[
        bool,
        typer.Option("--keyring", help="The key is in the system's keyring, under localllm/NAME."),
    ] = False,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="openai|llama.cpp|vllm|localllm|ollama",
            help="What it understands beside OpenAI's API; default what it says of itself.",
        ),
    ] = None,
    price_in: Annotated[
        float | None,
        typer.Option("--price-in", metavar="PRICE", help="Per million tokens of prompts."),
    ] = None,
    price_out: Annotated[
        float | None,
        typer.Option("--price-out", metavar="PRICE", help="Per million tokens of answers."),
    ] = None,
    n_ctx: Annotated[
        int | None,
        typer.Option("--ctx", "-c", min=1, help="Context in tokens; default what the server says."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0.1,
            help="How long it may be silent before an answer begins; default 300.",
        ),
    ] = None,
    total_timeout: Annotated[
        float | None,
        typer.Option(
            "--total-timeout", metavar="SECONDS", min=0.1, help="For a whole answer; default 3600."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="In place of the endpoint that has this name.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Ask the server what it offers.")
    ] = True,
    *,
    sink: Sink,
) -> None:
    """Give an OpenAI-compatible server a name that chat and serve answer to."""
    if not url:
        raise UsageProblem("where is it?", "localllm endpoint add NAME --url http://host:8000/v1")
    if key_env is not None and keyring:
        raise UsageProblem("--key-env and --keyring exclude each other")
    checked = checked_name(name)
    source = KeySource(env=key_env) if key_env is not None else None
    source = KeySource(entry=checked) if keyring else source
    wanted = Endpoint(
        checked, checked_url(url), model or "", kind_of(kind), source, price_in, price_out, n_ctx,
        timeout, total_timeout,
    )  # fmt: skip
    added = add_endpoint(
        Registry.open(), wanted, sink.warn, kind_said=kind is not None, check=check,
        replaces=replace,
    )  # fmt: skip
    sink.show(added, _added)


def _added(added: Added) -> View:
    took = f" (listed in {Seconds(added.listed_s)})" if added.listed_s is not None else ""
    return Note(f"{added.name} is {added.model} at {added.url}{took}; "
                f"localllm chat {added.name}")  # fmt: skip


def list_command(*, sink: Sink) -> None:
    """List the endpoints."""
    sink.show(tuple(map(_shown, all_endpoints(Registry.open()))), _table)


def _table(found: tuple[ShownEndpoint, ...]) -> View:
    if not found:
        return Note("no endpoints; localllm endpoint add NAME --url http://host:8000/v1")
    rows = [(one.name, one.model, one.kind, one.url, _key(one)) for one in found]
    return Table(("name", "model", "kind", "url", "key"), rows)


def show_command(name: Name, *, sink: Sink) -> None:
    """Show what is known of an endpoint; never its key."""
    sink.show(_shown(find_endpoint(name, Registry.open())), _fields)


def _fields(one: ShownEndpoint) -> View:
    return Fields(
        [
            ("name", one.name),
            ("url", one.url),
            ("model", one.model),
            ("kind", one.kind),
            ("key", _key(one)),
            ("price per million in", one.price_in),
            ("price per million out", one.price_out),
            ("context", one.n_ctx),
            ("silent at most", None if one.timeout_s is None else Seconds(one.timeout_s)),
            ("answer at most", None if one.total_s is None else Seconds(one.total_s)),
            ("on this machine", "yes" if one.this_machine else "no"),
            ("added", Moment(one.added_at)),
        ]
    )


def rm_command(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...", help="Their names here.", autocompletion=complete_endpoint
        ),
    ],
    *,
    sink: Sink,
) -> None:
    """Forget endpoints. What stands in a keyring stays there."""
    registry = Registry.open()
    endpoints = Endpoints.of(registry)
    found = []
    for name in names:  # none goes where one is not there
        if (kept := endpoints.find(name)) is None:
            find_endpoint(name, registry)
            raise NotFound(f"no endpoint {name!r} here", "localllm endpoint list")
        found.append(kept.name)
    gone = tuple(name for name in dict.fromkeys(found) if endpoints.remove(name))
    sink.note(f"removed: {', '.join(gone) or 'none'}")
    sink.show(RemovedEndpoints(gone))


def check_command(name: Name, *, sink: Sink) -> None:
    """Ask an endpoint for its models and for one token of an answer."""
    sink.show(check_endpoint(find_endpoint(name, Registry.open()), sink.warn), _checked)


def _checked(found: Checked) -> View:
    listed = None if found.listed_s is None else Seconds(found.listed_s)
    return Fields(
        [
            ("url", found.url),
            ("models listed in", listed),
            ("models", found.n_models),
            ("first token after", Seconds(found.first_token_s)),
            ("one token in all", Seconds(found.answer_s)),
            ("answered by", found.answered_by),
        ]
    )


def _shown(one: Endpoint) -> ShownEndpoint:
    return ShownEndpoint(
        name=one.name,
        url=one.url,
        model=one.model,
        kind=one.kind,
        key_from=None if one.key is None else str(one.key),
        key_present=_present(one),
        price_in=one.price_in,
        price_out=one.price_out,
        n_ctx=one.n_ctx,
        timeout_s=one.timeout_s,
        total_s=one.total_s,
        this_machine=one.is_this_machine,
        added_at=one.added_at,
    )


def _present(one: Endpoint) -> bool | None:
    if one.key is None:
        return None
    try:
        return key_of(one.key) is not None
    except LocalLLMError:
        return False


def _key(one: ShownEndpoint) -> str:
    if one.key_from is None:
        return "none"
    return one.key_from + ("" if one.key_present else " (not there now)")
