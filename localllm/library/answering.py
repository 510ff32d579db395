"""Who answers to a name: a model that is run here, or something else.

    who = find_answerer("gpt", registry)
    if isinstance(who, Model): ...            # loaded and run in this process
    else:
        with who.open() as far:               # an endpoint, a router ...
            for part in far.ask(Wanted(messages=...)).parts(): ...

Everything that is no model of this process is a `Far` of one of the KINDS below, the only place
that says which there are. A kind is asked for a name before the registry's models are; none of
them claims a name that a model has.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from localllm.errors import EngineError, LocalLLMError, ModelNotFound
from localllm.generation import Accounting
from localllm.library.find import find_runnable
from localllm.registry import Model, Registry

if TYPE_CHECKING:
    from localllm.endpoints import Delta, Embedded, Ended, Wanted
    from localllm.library.lending import Lender
    from localllm.toolcalls import Part, ToolCall

# module:object of each kind, in the order in which they are asked. Loaded when a name is looked
# up: rooms may add theirs without being imported by anything that needs them not.
KINDS: tuple[str, ...] = ("localllm.library.endpoints:ENDPOINTS", "localllm.route.far:ROUTERS")


class OutOfContext(EngineError):
    """The conversation is longer than what any of those who may answer can read."""


class CannotDo(EngineError):
    """Nobody who may answer can do what this request needs: see images, call tools."""


class NotInTime(EngineError):
    """No word came within the time that there was."""


class FarStream(Protocol):
    """One answer. `thinking`, `calls` and `model` (who answered) are complete at its end."""

    accounting: Accounting | None
    thinking: str
    calls: tuple[ToolCall, ...]
    model: str | None

    def parts(self) -> Iterator[Part]: ...

    def cancel(self) -> None: ...


class FarGenerator(Protocol):
    """Answers, for ordinary code; from any thread."""

    @property
    def name(self) -> str: ...

    def ask(self, wanted: Wanted) -> FarStream: ...

    def close(self) -> None: ...


class FarClient(Protocol):
    """The same on an event loop. At an answer's end comes one Ended a sample."""

    def stream(self, wanted: Wanted) -> AsyncGenerator[list[Delta | Ended], None]: ...

    async def embed(
        self, texts: Sequence[str | Sequence[int]], dimensions: int | None = None
    ) -> Embedded: ...

    async def aclose(self) -> None: ...


class Far(Protocol):
    """Something with a name that answers. `where` is a sentence for people; `n_ctx` the context of
    a conversation, where known; `added_at` in seconds since the epoch."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def where(self) -> str: ...

    @property
    def n_ctx(self) -> int | None: ...

    @property
    def added_at(self) -> float: ...

    def unsent(self, wanted: Wanted) -> tuple[str, ...]:
        """The sampling fields of `wanted` that this one cannot be told."""

    def open(self) -> FarGenerator: ...

    def client(self, lender: Lender | None = None) -> FarClient:
        """`lender` has the models that this process holds anyway, for who answers with such."""


@runtime_checkable
class Adjustable(Protocol):
    """A Far whose name takes an `@number` (a router's threshold)."""

    def at(self, threshold: str) -> Far:
        """Raises UsageProblem for what is no number of its range."""


@runtime_checkable
class Judgeable(Protocol):
    """A FarGenerator that learns from what people think of its answers (a router)."""

    @property
    def comment(self) -> str | None:
        """Who gave the last answer and why, as a sentence; None before there is one."""

    @property
    def about(self) -> Mapping[str, Any] | None:
        """The same as plain data: who answered, with which probability, at what cost, and the
        decision's number."""

    def judge(self, verdict: str, source: str = "owner") -> str:
        """Say of the last answer that it was good or bad, or whose would be better; who is meant,
        as a sentence. Raises UsageProblem."""


@dataclass(frozen=True)
class Revealed:
    """Who A and B were; `preferred` is None where neither was better."""

    a: str
    b: str
    preferred: str | None


class SideBySide(Protocol):
    """Two answers to one question, A and B, by members that are told once somebody has chosen."""

    @property
    def streams(self) -> tuple[FarStream, FarStream]:
        """A's and B's, to be read one after the other."""

    def end(self) -> None:
        """Both were read, or given up."""

    def vote(self, verdict: str, answers: tuple[str, str]) -> Revealed:
        """`verdict` is one of VERDICTS, `answers` what A and B said. Raises UsageProblem."""


VERDICTS = ("a", "b", "tie", "both-bad")


@runtime_checkable
class Comparable(Protocol):
    """A FarGenerator with two who can answer (a router)."""

    def compare(self, wanted: Wanted) -> SideBySide:
        """Raises UsageProblem where there are no two, or one of them may not see the question."""


class FarKind(Protocol):
    """One kind of them."""

    @property
    def name(self) -> str: ...

    def find(self, text: str, registry: Registry) -> Far | None:
        """What `text` names, None where it names none of this kind."""

    def list(self, registry: Registry) -> tuple[Far, ...]: ...


def kinds() -> tuple[FarKind, ...]:
    """All kinds, in order."""
    found = []
    for target in KINDS:
        module, _, name = target.partition(":")
        found.append(getattr(importlib.import_module(module), name))
    return tuple(found)


def find_far(text: str, registry: Registry) -> Far | None:
    """What answers to `text` and is no model, None where nothing does."""
    for kind in kinds():
        if (found := kind.find(text, registry)) is not None:
            return found
    return None


def all_far(registry: Registry) -> tuple[Far, ...]:
    """Everything that answers and is no model."""
    return tuple(one for kind in kinds() for one in kind.list(registry))


def find_answerer(text: str, registry: Registry) -> Model | Far:
    """Who answers to `text`. Raises what `find_runnable` raises; nearest names are those of all."""
    if (found := find_far(text, registry)) is not None:
        return found
    try:
        return find_runnable(text, registry)
    except ModelNotFound as error:
        names = {one.name.casefold(): one.name for one in all_far(registry)}
        near = [names[n] for n in difflib.get_close_matches(text.casefold(), [*names], n=3)]
        if not near or "near:" in error.message:
            raise
        message = f"no model {text!r} here; near: {', '.join(near)}"
        raise ModelNotFound(message, "localllm endpoint list") from None


def complete_answerer(incomplete: str) -> list[str]:
    """Names that begin with `incomplete`, of models and of the others. Never fails: the shell is
    waiting."""
    from localllm.library.arguments import complete_model

    wanted = incomplete.casefold()
    try:
        far = [one.name for one in all_far(Registry.open())]
    except LocalLLMError:
        far = []
    return complete_model(incomplete) + [n for n in far if n.casefold().startswith(wanted)]
