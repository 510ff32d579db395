"""Answers about images: beside the scheduler, one at a time.

llama.cpp takes images as vectors, which the scheduler's shared batches do not carry. So they have
a context of their own, and a line in which they wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from localllm.closing import Closing
from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions
from localllm.engine.scheduler import Busy, Event, OnEvent, Request, Stopped
from localllm.engine.session import Session
from localllm.engine.stream import TokenStream
from localllm.engine.vision import Vision
from localllm.engine.vision_prompt import MediaPrompt
from localllm.errors import LocalLLMError, UsageProblem
from localllm.generation import Accounting

_MOST_WAITING = 32
_GUESS_S = 5.0  # an answer, for the hint when to come back


@dataclass(eq=False)
class Seen:
    """A request in the line or at work, as much of an Answer as a Feed needs."""

    request: Request
    media: MediaPrompt
    tell: OnEvent
    cancelled: bool = False
    stream: TokenStream | None = None

    def cancel(self) -> None:
        """Stop within one token; from any thread."""
        self.cancelled = True
        if self.stream is not None:
            self.stream.cancel()


class Seer(Closing):
    """A projector, a context, and the thread that uses them."""

    def __init__(
        self, model: Model, mmproj: Path, n_ctx: int, n_threads: int, flush: Callable[[], None]
    ) -> None:
        """`flush` is called after each event that was told. Raises FileGone, DamagedFile,
        EngineError."""
        self.vision = Vision(model, mmproj, n_threads=n_threads)
        self.context = Context(model, ContextOptions(n_ctx=n_ctx, n_threads=n_threads))
        self._session = Session(self.context)
        self._flush = flush
        self._thread = ThreadPoolExecutor(1, "localllm-vision")
        self._lock = threading.Lock()
        self._line: list[Seen] = []
        self._closed = False

    @property
    def idle(self) -> bool:
        return not self._line

    def submit(self, request: Request, media: MediaPrompt, tell: OnEvent) -> Seen:
        """Raises UsageProblem for what cannot be done with images, Busy, Stopped."""
        if request.n != 1 or request.logprobs is not None:
            raise UsageProblem("with images: one sample, and no logprobs")
        seen = Seen(request, media, tell)
        with self._lock:
            if self._closed:
                raise Stopped("the model was unloaded")
            if len(self._line) >= _MOST_WAITING:
                raise Busy(len(self._line), _GUESS_S * len(self._line))
            self._line.append(seen)
            self._thread.submit(self._answer, seen)
        return seen

    def _answer(self, seen: Seen) -> None:
        error: LocalLLMError | None = None
        account: Accounting | None = None
        try:
            if not seen.cancelled and not self._closed:
                account = self._run(seen)
        except LocalLLMError as found:
            error = found
        with self._lock:
            self._line.remove(seen)
        seen.tell(Event(0, "", accounting=account or _nothing(seen), error=error))
        self._flush()

    def _run(self, seen: Seen) -> Accounting | None:
        request = seen.request
        self.context.arm()
        seen.stream = self._session.stream(
            request.prompt, request.sampling, logit_bias=request.logit_bias, media=seen.media
        )
        if seen.cancelled:
            seen.stream.cancel()
        for piece in seen.stream:
            seen.tell(Event(0, piece.text))
            self._flush()
        return seen.stream.accounting

    def close(self) -> None:
        """Cancel everyone, then free. May be called twice."""
        with self._lock:
            self._closed = True
            line = list(self._line)
        for seen in line:
            seen.cancel()
        self._thread.shutdown(wait=True)
        self.context.close()
        self.vision.close()


def _nothing(seen: Seen) -> Accounting:
    return Accounting(len(seen.request.prompt), 0, 0, 0.0, 0.0, 0.0, "cancelled", 0)
