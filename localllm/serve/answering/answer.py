"""An answer as it comes: text, thinking, tool calls and the end, each sample for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from localllm.engine.scheduler import Event, Stopped, TokenLogprobs
from localllm.errors import EngineError
from localllm.generation import Accounting
from localllm.serve.answering.ask import Prepared
from localllm.serve.answering.feed import Courier, Feed
from localllm.serve.resident.resident import Resident
from localllm.thinking import Splitter
from localllm.toolcalls import CallArguments, CallEnd, CallStart, TextPart, ToolParser


@dataclass(frozen=True, slots=True)
class Said:
    """Text of sample `sample`. `logprobs` are of the tokens computed since the last Said, which
    need not be those of the text: some is held back while a stop string may be beginning."""

    sample: int
    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """Further tokens of the prompt, from its second on."""

    sample: int
    logprobs: tuple[TokenLogprobs, ...]


@dataclass(frozen=True, slots=True)
class Thinking:
    sample: int
    text: str


@dataclass(frozen=True, slots=True)
class Called:
    """A piece of tool call number `index` of this sample."""

    sample: int
    index: int
    part: CallStart | CallArguments | CallEnd


@dataclass(frozen=True, slots=True)
class Ended:
    """`called`: with tool calls. `thought_tokens` are those of the thinking, its opening mark
    among them; None where that is not known."""

    sample: int
    accounting: Accounting
    called: bool
    thought_tokens: int | None = None


Part = Said | Scored | Thinking | Called | Ended


class Answering:
    """One request under way. Read its parts once; `close` when done with it, read or not."""

    def __init__(
        self, courier: Courier, resident: Resident, prepared: Prepared, *, whole: bool
    ) -> None:
        """`whole`: nothing comes before all of it has come."""
        request = prepared.request
        self.feed = Feed(courier, request.n, whole=whole)
        self.prepared = prepared
        self.tokens: list[int] = []  # of sample 0, the one that ended it too
        self._resident = resident
        self._closed = False
        self._voices = [_Voice(i, prepared) for i in range(request.n)]

    @property
    def n(self) -> int:
        """Samples."""
        return self.prepared.request.n

    def start(self) -> None:
        """Submit it; on a worker, since its samplers are made. Raises Busy, UsageProblem, ..."""
        generator = self._resident.generator
        assert generator is not None
        self.feed.bind(generator.submit(self.prepared.request, self.feed.tell))
        if self._closed:  # while the samplers were made
            self.feed.cancel()

    async def parts(self) -> AsyncIterator[list[Part]]:
        """What came, a list a step. Raises the request's error; what came before it was given."""
        while self.feed.n_left:
            parts: list[Part] = []
            failed: Event | None = None
            for event in await self.feed.next():
                if event.token is not None and event.sample == 0:
                    self.tokens.append(event.token)
                if event.error is not None or _cut_off(event):
                    failed = failed or event
                else:
                    self._voices[event.sample].take(event, parts)
            if parts:
                yield joined(parts)
            if failed is not None:
                raise self._error(failed)

    def _error(self, event: Event) -> EngineError | Exception:
        if event.error is not None:
            return event.error
        if self.feed.overrun:
            return EngineError("the client reads too slowly; its answer was given up")
        return Stopped("the server is stopping; the answer was cut off")

    def cancel(self) -> None:
        """End it within one step."""
        self.feed.cancel()

    def close(self) -> None:
        self._closed = True
        if self.feed.n_left:
            self.feed.cancel()


def _cut_off(event: Event) -> bool:
    return event.accounting is not None and event.accounting.finish_reason == "cancelled"


class _Voice:
    """One sample's events as parts."""

    def __init__(self, index: int, prepared: Prepared) -> None:
        self._index = index
        self._splitter: Splitter | None = None
        if prepared.thinking is not None:
            self._splitter = prepared.thinking.splitter(prepared.prompt)
        self._parser: ToolParser | None = None
        if prepared.format is not None:
            self._parser = prepared.format.parser(prepared.tools)
        self._n_calls = 0
        self._n_thought = self._n_unsaid = 0  # tokens; unsaid: of text that is still held back

    def take(self, event: Event, parts: list[Part]) -> None:
        if event.prompt:
            parts.append(Scored(self._index, event.prompt))
            return
        n_before = len(parts)
        self._take(event, parts)
        self._n_unsaid += event.token is not None
        said = [part for part in parts[n_before:] if not isinstance(part, Said) or part.text]
        if said:
            self._n_thought += self._n_unsaid if isinstance(said[0], Thinking) else 0
            self._n_unsaid = 0
        if event.accounting is not None:
            called = self._n_calls > 0
            parts.append(Ended(self._index, event.accounting, called, self._n_thought))

    def _take(self, event: Event, parts: list[Part]) -> None:
        logprobs = (event.logprobs,) if event.logprobs is not None else ()
        if self._splitter is None and self._parser is None:
            if event.text or logprobs:
                parts.append(Said(self._index, event.text, logprobs))
        else:
            if logprobs:
                parts.append(Said(self._index, "", logprobs))
            if event.text:
                self._split(event.text, parts)
            if event.last:
                self._finish(parts)

    def _split(self, text: str, parts: list[Part]) -> None:
        if self._splitter is None:
            self._parse(text, parts)
            return
        for kind, piece in self._splitter.feed(text):
            self._place(kind, piece, parts)

    def _place(self, kind: str, piece: str, parts: list[Part]) -> None:
        if kind == "thinking":
            parts.append(Thinking(self._index, piece))
        else:
            self._parse(piece, parts)

    def _parse(self, text: str, parts: list[Part]) -> None:
        if self._parser is None:
            if text:
                parts.append(Said(self._index, text))
            return
        for part in self._parser.feed(text):
            self._tool_part(part, parts)

    def _tool_part(
        self, part: TextPart | CallStart | CallArguments | CallEnd, parts: list[Part]
    ) -> None:
        if isinstance(part, TextPart):
            kind = Thinking if part.thinking else Said
            parts.append(kind(self._index, part.text))
            return
        if isinstance(part, CallStart):
            self._n_calls += 1
        parts.append(Called(self._index, self._n_calls - 1, part))

    def _finish(self, parts: list[Part]) -> None:
        if self._splitter is not None:
            for kind, piece in self._splitter.finish():
                self._place(kind, piece, parts)
        if self._parser is not None:
            for part in self._parser.finish():
                self._tool_part(part, parts)


def joined(parts: list[Part]) -> list[Part]:
    """Neighbouring texts of one sample as one: a slow reader gets few and long ones."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, Said) and isinstance(last, Said) and part.sample == last.sample:
            found[-1] = Said(part.sample, last.text + part.text, last.logprobs + part.logprobs)
        elif (
            isinstance(part, Thinking)
            and isinstance(last, Thinking)
            and (part.sample == last.sample)
        ):
            found[-1] = Thinking(part.sample, last.text + part.text)
        else:
            found.append(part)
    return found


class Answers(Protocol):
    """A request under way: a model's of this process (Answering), or of somebody elsewhere."""

    @property
    def n(self) -> int: ...

    def parts(self) -> AsyncIterator[list[Part]]: ...

    def cancel(self) -> None: ...
