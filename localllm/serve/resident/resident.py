"""One model in memory: its scheduler, its adapters, its vectors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.closing import Closing
from localllm.engine.adapter import Attached, LoraAdapter
from localllm.engine.scheduler import SharedGenerator
from localllm.errors import EngineError, FileGone, UsageProblem
from localllm.serve.resident.embedder import Embedder

if TYPE_CHECKING:
    from localllm.engine.template import ChatTemplate
    from localllm.engine.tokenizer import Tokenizer
    from localllm.engine.vision.vision import Vision
    from localllm.placement import Opened, ProjectorNeed


@dataclass(frozen=True)
class Projector:
    """What lets a model see images: its file, what it was planned to take, and where."""

    path: Path
    need: ProjectorNeed
    use_gpu: bool


@contextmanager
def _unnamed(path: Path) -> Iterator[None]:
    """Where a file lies is nothing that a request is told."""
    try:
        yield
    except FileGone:
        raise EngineError(f"the file {path.name} is gone from the server's disk") from None


class Resident(Closing):
    """A pool's Resident. A model that only embeds has no `generator`."""

    def __init__(
        self,
        opened: Opened,
        generator: SharedGenerator | None,
        n_ctx: int,
        make_embedder: Callable[[], Embedder],
        projector: Projector | None = None,
    ) -> None:
        """`n_ctx` is what one conversation may use. `make_embedder` is asked once, when the first
        vector is; a `projector` is loaded with the first image."""
        self.opened = opened
        self.generator = generator
        self.n_ctx = n_ctx
        self._make_embedder = make_embedder
        self._embedder: Embedder | None = None
        self._projector = projector
        self._vision: Vision | None = None
        self._adapters: dict[Path, LoraAdapter] = {}
        self._templates: dict[str, ChatTemplate] = {}
        self._lock = threading.Lock()
        self._making = threading.Lock()  # of what takes long

    # --- a pool's Resident ---------------------------------------------------------------

    @property
    def idle(self) -> bool:
        return all(part is None or part.idle for part in (self.generator, self._embedder))

    @property
    def alive(self) -> bool:
        return self.generator is None or self.generator.alive

    def close(self) -> None:
        """Cancel who is being answered and free everything. May be called twice."""
        if self.generator is not None:
            self.generator.close()
        with self._making:
            embedder, vision = self._embedder, self._vision
        if embedder is not None:
            embedder.close()
        if vision is not None:  # after the scheduler, whose thread used it
            vision.close()
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

    def own_template(self, source: str) -> ChatTemplate:
        """One that a client sent: compiled for its request alone, and not kept."""
        from localllm.engine.template import ChatTemplate

        return ChatTemplate.of(self.opened.model, source)

    def adapters(self, wanted: Sequence[tuple[Path, float]]) -> tuple[Attached, ...]:
        """LoRAs with their scales, each loaded once and kept. Raises FileGone, DamagedFile,
        EngineError if one was made for another model."""
        with self._lock:
            for path, _ in wanted:
                if path not in self._adapters:
                    with _unnamed(path):
                        self._adapters[path] = LoraAdapter(self.opened.model, path)
            return tuple(Attached(self._adapters[path], scale) for path, scale in wanted)

    def embedder(self) -> Embedder:
        """Made on first use: its context takes memory of its own. Raises DoesNotFit where there
        is none, EngineError for a model that makes no vectors."""
        with self._making:
            if self._embedder is None:
                self._embedder = self._make_embedder()
            return self._embedder

    def vision(self, name: str) -> Vision:
        """Loaded on first use. Raises UsageProblem for a model that sees no images, FileGone,
        DamagedFile, EngineError."""
        from localllm.engine.vision.vision import Vision

        projector = self._projector
        if projector is None:
            raise UsageProblem(f"{name} sees no images: it has no projector (mmproj)")
        with self._making:
            if self._vision is None:
                with _unnamed(projector.path):
                    self._vision = Vision(
                        self.opened.model, projector.path, use_gpu=projector.use_gpu,
                        n_threads=self.opened.context.n_threads,
                    )  # fmt: skip
            return self._vision

    # --- memory --------------------------------------------------------------------------

    @property
    def memory_bytes(self) -> int:
        """Weights, cache and buffers, of the projector and of vectors too: by the plan, and as
        measured where that was an estimate and is loaded."""
        plan = self.opened.plan
        total = plan.total_bytes + self._projector_bytes
        need = self._embedder.need if self._embedder is not None else None
        if self._projector is not None:
            total += self._projector.need.image_bytes
        return total + (need.total_bytes if need is not None else 0)

    @property
    def gpu_bytes(self) -> int:
        """What of that is in GPUs' memory."""
        total = self.opened.plan.gpu_bytes
        need = self._embedder.need if self._embedder is not None else None
        if self._projector is not None and self._projector.use_gpu:
            total += self._projector_bytes
        return total + (sum(need.gpu_bytes.values()) if need is not None else 0)

    @property
    def pending(self) -> Projector | None:
        """What was planned and is not taken yet."""
        return self._projector if self._vision is None else None

    @property
    def _projector_bytes(self) -> int:
        if self._projector is None:
            return 0
        need, vision = self._projector.need, self._vision
        if vision is None:
            return need.total_bytes
        return need.weights_bytes + sum(one.compute_bytes for one in vision.buffers)
