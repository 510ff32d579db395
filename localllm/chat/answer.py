"""One answer: a conversation in, text out as it comes, with its account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from localllm.chat.conversation import Conversation
from localllm.chat.prompting import Asked
from localllm.chat.room import Dropped, Room
from localllm.chat.tools import DoneCall
from localllm.generation import Accounting, Message, Sampling, Stream
from localllm.library.answering import Judgeable
from localllm.thinking import Splitter
from localllm.toolcalls import CallArguments, CallStart, Part, TextPart, ToolCall, ToolParser
from localllm.ui.answer import AnswerView

if TYPE_CHECKING:
    from localllm.chat.far import FarSession
    from localllm.chat.session import Session

_SLOW_TOKENS = 256  # a prompt worth saying that it is being read


@dataclass(frozen=True)
class Answer:
    """What a model said. `truncated`: the context was full before it was done; `dropped` is what
    it no longer saw. `drafted` and `accepted` count a draft model's tokens. Of an endpoint,
    `remote_model` is who answered by its server's own word, and `seed`, `n_ctx` and `cost` are
    None where they are not known; `estimated` says that its tokens, and the cost, are estimates of
    ours, since it gave no count that can be. `routing` is what a router says of who answered and
    why."""

    model: str
    text: str
    thinking: str | None
    finish_reason: str
    truncated: bool
    dropped: tuple[Dropped, ...]
    seed: int | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    load_s: float | None
    first_token_s: float
    prompt_s: float
    decode_s: float
    prompt_tps: float | None
    decode_tps: float | None
    context_tokens: int  # used after the answer
    n_ctx: int | None
    drafted: int | None = None
    accepted: int | None = None
    draft_speedup: float | None = None
    chat_id: int | None = None
    tool_calls: tuple[DoneCall, ...] = ()
    remote_model: str | None = None
    cost: float | None = None
    estimated: bool = False
    routing: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Spoken:
    """What came out of the model for one prompt."""

    text: str
    thinking: str
    account: Accounting
    context_tokens: int
    calls: tuple[ToolCall, ...] = ()


class Speaker:
    """Lets a session's model answer, and shows it."""

    def __init__(self, session: Session, view: AnswerView) -> None:
        self._session, self._view = session, view

    def speak(
        self, asked: Asked, sampling: Sampling, *, room: Room | None = None,
        conversation: Conversation | None = None, thinks: bool = True,
        tools: ToolParser | None = None,
    ) -> Spoken:  # fmt: skip
        """Continue `asked`. With `room`, an answer that fills the context goes on in what it
        makes free; with `tools`, calls are told from the text. Ctrl-C ends the answer with finish
        reason `cancelled`; what was said until then is the answer. Raises what the engine
        raises."""
        sampling = self._settled(sampling, asked, thinks)
        reader = _Reader(self._view, self._splitter(asked, thinks, tools), tools)
        said: list[int] = []
        accounts: list[Accounting] = []
        tokens: Sequence[int] = asked.tokens
        began: float | None = asked.began
        try:
            while True:
                part = _part(sampling, sum(a.completion_tokens for a in accounts), len(accounts))
                self._announce(tokens)
                stream = self._session.generator.session.stream(
                    tokens, part, started=began, media=asked.media
                )
                reader.read(stream)
                assert stream.accounting is not None  # iteration has ended
                accounts.append(stream.accounting)
                said += stream.tokens
                # a grammar's state ends with its sampler: it cannot be gone on with
                full = accounts[-1].finish_reason == "context" and sampling.grammar is None
                if not full or room is None or conversation is None:
                    break
                more = room.go_on(conversation, self._session.prompting.whole(said))
                if more is None:
                    break
                tokens, began, asked = more, None, replace(asked, media=None)
        finally:
            reader.finish()
        used = len(tokens) + accounts[-1].completion_tokens
        thought = reader.thinking.strip()
        context_tokens = min(used, self._session.n_ctx)
        return Spoken(reader.text, thought, _total(accounts), context_tokens, tuple(reader.calls))

    def _settled(self, sampling: Sampling, asked: Asked, thinks: bool) -> Sampling:
        special = sampling.special or (thinks and self._session.prompting.format.special)
        return replace(sampling, stop=(*sampling.stop, *asked.stop), special=special)

    def _splitter(self, asked: Asked, thinks: bool, tools: ToolParser | None) -> Splitter | None:
        form = self._session.prompting.format
        # Harmony's channels are the tool parser's to read, where there is one
        if not thinks or (tools is not None and form.harmony):
            return None
        return form.splitter(asked.text)

    def write(self, messages: Sequence[Message], max_tokens: int, sampling: Sampling) -> str:
        """A text for ourselves (a summary): not shown, without thinking in it."""
        self._view.status(f"summing up {len(messages[0].content)} characters ...")
        prompting = self._session.prompting
        asked = prompting.render(messages, thinking="off", tools=())
        quiet = replace(sampling, grammar=None, max_tokens=max_tokens, stop=())
        from localllm.ui.answer import NoView

        spoken = Speaker(self._session, NoView()).speak(asked, quiet)
        if spoken.account.finish_reason == "cancelled":
            raise KeyboardInterrupt
        return spoken.text

    def _announce(self, tokens: Sequence[int]) -> None:
        held = self._session.generator.session.cached_tokens
        same = next(
            (n for n, (a, b) in enumerate(zip(held, tokens, strict=False)) if a != b),
            min(len(held), len(tokens)),
        )
        if (new := len(tokens) - same) > _SLOW_TOKENS:
            self._view.status(f"reading {new:,} tokens ...")


class _Reader:
    """Reads streams to their end, and shows thinking and answer apart; calls are kept."""

    def __init__(
        self, view: AnswerView, splitter: Splitter | None, tools: ToolParser | None = None
    ) -> None:
        self._view, self._splitter, self._tools = view, splitter, tools
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self.calls: list[ToolCall] = []

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def thinking(self) -> str:
        return "".join(self._thoughts)

    def read(self, stream: Stream) -> None:
        pieces = iter(stream)
        while True:
            try:
                piece = next(pieces, None)
                if piece is None:
                    return
                self._take(piece.text)
            except KeyboardInterrupt:
                stream.cancel()

    def finish(self) -> None:
        if self._tools is not None:
            self._sort(self._tools.finish())
        if self._splitter is not None:
            self._show(self._splitter.finish())
        self._view.end()

    def _take(self, text: str) -> None:
        if self._tools is not None:
            self._sort(self._tools.feed(text))
        else:
            self._split(text)

    def _sort(self, parts: Sequence[Part]) -> None:
        """Text on to be shown, calls put together from their parts."""
        for part in parts:
            if isinstance(part, TextPart):
                if part.thinking:
                    self._show([("thinking", part.text)])
                else:
                    self._split(part.text)
            elif isinstance(part, CallStart):
                self.calls.append(ToolCall(part.id, part.name, ""))
            elif isinstance(part, CallArguments):
                last = self.calls[-1]
                self.calls[-1] = replace(last, arguments=last.arguments + part.text)

    def _split(self, text: str) -> None:
        self._show([("answer", text)] if self._splitter is None else self._splitter.feed(text))

    def _show(self, parts: Sequence[tuple[str, str]]) -> None:
        for kind, text in parts:
            if kind == "thinking":
                self._thoughts.append(text)
                self._view.thinking(text)
            else:
                self._texts.append(text)
                self._view.answer(text)


def _part(sampling: Sampling, n_said: int, number: int) -> Sampling:
    """The sampling of what is still to come: fewer tokens, and another seed, or the same draws
    would come again."""
    if number == 0:
        return sampling
    left = None if sampling.max_tokens is None else max(0, sampling.max_tokens - n_said)
    seed = None if sampling.seed is None else (sampling.seed + number) % (2**32 - 1)
    return replace(sampling, max_tokens=left, seed=seed)


def _total(accounts: Sequence[Accounting]) -> Accounting:
    """The account of an answer that was made in parts: the first prompt, and all that was said."""
    first, last = accounts[0], accounts[-1]
    if len(accounts) == 1:
        return first
    return replace(
        first,
        completion_tokens=sum(a.completion_tokens for a in accounts),
        decode_s=sum(a.decode_s for a in accounts),
        finish_reason=last.finish_reason,
        truncated=last.truncated,
    )


def finished(
    session: Session | FarSession,
    spoken: Spoken,
    dropped: Sequence[Dropped],
    calls: Sequence[DoneCall] = (),
) -> Answer:
    """The answer with its account, in one flat value."""
    account, generator = spoken.account, session.generator
    return Answer(
        model=generator.name,
        text=spoken.text,
        thinking=spoken.thinking or None,
        finish_reason=account.finish_reason,
        truncated=account.truncated,
        dropped=tuple(dropped),
        seed=account.seed if account.seed >= 0 else None,
        prompt_tokens=account.prompt_tokens,
        cached_tokens=account.cached_tokens,
        completion_tokens=account.completion_tokens,
        load_s=session.load_s,
        first_token_s=account.first_token_s,
        prompt_s=account.prompt_s,
        decode_s=account.decode_s,
        prompt_tps=account.prompt_tps,
        decode_tps=account.decode_tps,
        context_tokens=spoken.context_tokens,
        n_ctx=session.n_ctx,
        drafted=getattr(account, "drafted", None),
        accepted=getattr(account, "accepted", None),
        draft_speedup=getattr(account, "speedup_estimate", None),
        tool_calls=tuple(calls),
        remote_model=getattr(account, "model", None),
        cost=getattr(account, "cost", None),
        estimated=not getattr(account, "counted", True),
        routing=generator.about if isinstance(generator, Judgeable) else None,
    )
