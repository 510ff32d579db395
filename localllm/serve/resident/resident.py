"""One model in memory: its scheduler, its adapters, its vectors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.closing import Closing
from localllm.engine.adapter import Attached, LoraAdapter
from localllm.engine.scheduler import SharedGenerator
from localllm.errors import UsageProblem
from localllm.serve.resident.embedder import Embedder
from localllm.serve.resident.seer import Seer

if TYPE_CHECKING:
    from localllm.engine.template import ChatTemplate
    from localllm.engine.tokenizer import Tokenizer
    from localllm.placement import Opened

# What a text to embed may be long where nobody says --ctx: its whole attention is computed at
# once, so that memory grows with it.
EMBED_TOKENS = 2048


class Resident(Closing):
    """A pool's Resident. A model that only embeds has no `generator`."""

    def __init__(
        self,
        opened: Opened,
        generator: SharedGenerator | None,
        n_ctx: int,
        embed_tokens: int,
        mmproj: Path | None = None,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        """`n_ctx` is what one conversation may use, `embed_tokens` one text to embed; `mmproj` is
        the projector of a model that sees images. `on_step` as SchedulerOptions has it."""
        self.opened = opened
        self.generator = generator
        self.n_ctx = n_ctx
        self._embed_tokens = embed_tokens
        self._embedder: Embedder | None = None
        self._mmproj = mmproj
        self._on_step = on_step
        self._seer: Seer | None = None
        self._adapters: dict[Path, LoraAdapter] = {}
        self._templates: dict[str, ChatTemplate] = {}
        self._lock = threading.Lock()

    # --- a pool's Resident ---------------------------------------------------------------

    @property
    def idle(self) -> bool:
        parts = (self.generator, self._embedder, self._seer)
        return all(part is None or part.idle for part in parts)

    @property
    def alive(self) -> bool:
        return self.generator is None or self.generator.alive

    def close(self) -> None:
        """Cancel who is being answered and free everything. May be called twice."""
        if self.generator is not None:
            self.generator.close()
        with self._lock:
            others = (self._embedder, self._seer)
        for part in others:
            if part is not None:
                part.close()
        self.opened.close()

    # --- what requests use ---------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer:
        if self.generator is not None:
            return self.generator.scheduler.tokenizer
        return self.embedder().tokenizer

    def generates(self, name: str) -> SharedGenerator:
        """Raises UsageProblem for a model that only embeds."""
        if self.generator is None:
            raise UsageProblem(
                f"{name} makes vectors and cannot answer; ask it at /v1/embeddings or /api/embed"
            )
        return self.generator

    def template(self, source: str | None) -> ChatTemplate:
        """The model's own, or one of this source in its place, compiled once."""
        from localllm.engine.template import ChatTemplate

        generator = self.generator
        assert generator is not None
        if source is None:
            return generator.template
        with self._lock:
            found = self._templates.get(source)
            if found is None:
                found = self._templates[source] = ChatTemplate.of(self.opened.model, source)
            return found

    def adapters(self, wanted: Sequence[tuple[Path, float]]) -> tuple[Attached, ...]:
        """LoRAs with their scales, each loaded once and kept. Raises FileGone, DamagedFile,
        EngineError if one was made for another model."""
        with self._lock:
            for path, _ in wanted:
                if path not in self._adapters:
                    self._adapters[path] = LoraAdapter(self.opened.model, path)
            return tuple(Attached(self._adapters[path], scale) for path, scale in wanted)

    def embedder(self) -> Embedder:
        """Made on first use: its context takes memory of its own."""
        with self._lock:
            if self._embedder is None:
                threads = self.opened.context.n_threads
                self._embedder = Embedder(self.opened.model, self._embed_tokens, threads)
            return self._embedder

    def seer(self, name: str) -> Seer:
        """Made on first use. Raises UsageProblem for a model that sees no images."""
        if self._mmproj is None:
            raise UsageProblem(f"{name} sees no images: it has no projector (mmproj)")
        with self._lock:
            if self._seer is None:
                self._seer = Seer(
                    self.opened.model, self._mmproj, self.n_ctx, self.opened.context.n_threads,
                    self._on_step,
                )  # fmt: skip
            return self._seer

    @property
    def memory_bytes(self) -> int:
        """By its plan: weights, cache and buffers."""
        return self.opened.plan.total_bytes

    @property
    def gpu_bytes(self) -> int:
        return self.opened.plan.gpu_bytes
