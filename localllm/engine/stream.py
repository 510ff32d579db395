"""The stream of one answer: sample, show, decode, and the account of it all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm.engine.context import ContextFull
from localllm.engine.sampling import Sampler
from localllm.engine.text import StopMatcher, Utf8Assembler
from localllm.errors import EngineError, Interrupted
from localllm.generation import Accounting, FinishReason, Piece, Sampling

if TYPE_CHECKING:
    from localllm.engine.session import Session
    from localllm.engine.vision.prompt import MediaPrompt


@dataclass
class _Clock:
    """Seconds of the engine's own work: what the reader of the stream does is not counted."""

    started: float
    prompt_s: float = 0.0
    first_token_s: float = 0.0
    first_at: float = 0.0
    last_at: float = 0.0
    paused_s: float = 0.0

    def tick(self) -> None:
        """A token was sampled."""
        now = time.perf_counter()
        if self.first_at == 0.0:
            self.first_at, self.first_token_s = now, now - self.started
        self.last_at = now - self.paused_s


class TokenStream:
    """Pieces of one answer. Read it once; `accounting` is set when that ends, however.

    `tokens` holds every token sampled so far, the one that ended the answer included; each
    counts as a completion token.
    """

    def __init__(
        self,
        session: Session,
        prompt: Sequence[int],
        sampling: Sampling,
        sampler: Sampler,
        started: float,
        media: MediaPrompt | None = None,
    ) -> None:
        self.accounting: Accounting | None = None
        self.tokens: list[int] = []
        self._session = session
        self._prompt = prompt
        self._sampling = sampling
        self._sampler = sampler
        self._media = media
        self._clock = _Clock(started)
        self._cached = 0
        self._finish: FinishReason = "cancelled"
        self._cancelled = False
        self._running = False
        self._read = False

    def cancel(self) -> None:
        """Stop within one token, or within the prompt; from any thread or signal handler."""
        self._cancelled = True
        if self._running:
            self._session.abort()

    def __iter__(self) -> Iterator[Piece]:
        if self._read:
            raise EngineError("this stream was read before; generate again")
        self._read = True
        return self._run()

    def _run(self) -> Iterator[Piece]:
        session = self._session
        session.acquire()
        try:
            session.arm()
            self._running = True  # from here on cancel() reaches the native code
            if not self._cancelled:
                self._process_prompt()
                yield from self._generate()
        except Interrupted:
            if not self._cancelled:
                raise
            self._finish = "cancelled"
        finally:
            self._running = False
            session.arm()
            session.release()
            self._sampler.close()
            self.accounting = self._account()

    def _process_prompt(self) -> None:
        begun = time.perf_counter()
        self._cached = self._session.process(self._prompt, self._media)
        self._session.context.check_logits()
        # Numbers below zero stand for an image's places.
        said = self._prompt if self._media is None else [t for t in self._prompt if t >= 0]
        self._sampler.accept_prompt(said)
        self._clock.prompt_s = time.perf_counter() - begun

    def _generate(self) -> Iterator[Piece]:
        session, sampler, clock, tokens = self._session, self._sampler, self._clock, self.tokens
        context, tokenizer = session.context, session.tokenizer
        piece = tokenizer.special_piece if self._sampling.special else tokenizer.piece
        text, stop = Utf8Assembler(), StopMatcher(self._sampling.stop)
        eog = tokenizer.eog_tokens
        n_shown = 0
        limit = self._limit()
        while limit is None:
            token = sampler.sample(context, session.output)
            tokens.append(token)
            clock.tick()
            if token in eog:
                limit = "stop"
                break
            ready = stop.feed(text.feed(piece(token)))
            if ready:
                handed = time.perf_counter()
                yield Piece(ready, len(tokens) - n_shown)
                clock.paused_s += time.perf_counter() - handed
                n_shown = len(tokens)
            limit = "stop" if stop.stopped else self._limit()
            if limit is None:
                try:
                    session.advance(token, self._left())
                except ContextFull:  # others share its memory
                    limit = "context"
        self._finish = limit
        held = stop.finish()
        if held and limit != "cancelled":
            yield Piece(held, len(tokens) - n_shown)

    def _left(self) -> int | None:
        """How many more tokens may be asked for; None without a limit."""
        most = self._sampling.max_tokens
        return None if most is None else most - len(self.tokens)

    def _limit(self) -> FinishReason | None:
        """Why no further token may be sampled, None if one may."""
        n = len(self.tokens)
        if self._cancelled:
            return "cancelled"
        if n == self._sampling.max_tokens:
            return "length"
        # The last token sampled is not in the context yet; it must fit to go on.
        if len(self._prompt) + n > self._session.context.n_ctx_seq:
            return "context"
        return None

    def _account(self) -> Accounting:
        clock, media = self._clock, self._media
        return Accounting(
            prompt_tokens=media.n_cells if media else len(self._prompt),
            cached_tokens=media.cells(self._cached) if media else self._cached,
            completion_tokens=len(self.tokens),
            prompt_s=clock.prompt_s,
            decode_s=clock.last_at - clock.first_at,
            first_token_s=clock.first_token_s,
            finish_reason=self._finish,
            seed=self._sampler.seed,
            truncated=self._finish == "context",
        )
