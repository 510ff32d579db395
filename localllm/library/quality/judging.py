"""Feeding the text to the base and the candidates: together where all fit in memory, and else
one after the other with the base's figures in a file between them.

Either way each model computes each chunk once, and the figures are the same to the last bit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import Interrupted, LocalLLMError
from localllm.library.quality.basefile import BaseFile, about_base
from localllm.library.quality.memory import fit_together
from localllm.library.quality.record import Identity, Settings
from localllm.library.quality.text import JudgedBy
from localllm.library.quality.vocabulary import check_same, vocabulary_of
from localllm.placement import Advice, PlanOptions, open_model, this_machine
from localllm.registry import Model, Registry
from localllm.ui import Progress

if TYPE_CHECKING:
    from localllm.engine.quality.chunks import Chunk
    from localllm.engine.quality.figures import Figures
    from localllm.engine.quality.quality import Comparison
    from localllm.engine.quality.rows import Reference
    from localllm.engine.tokenizer import Tokenizer
    from localllm.placement import Opened
    from localllm.ui.progress import Meter


@dataclass(frozen=True)
class HowToRun:
    """What a model is opened with. `plan` has the context of one chunk."""

    plan: PlanOptions
    threads: int | None = None
    require_gpu: bool = False
    force: bool = False


@dataclass(frozen=True)
class Judged:
    """A candidate's figures after `figures.n_chunks` of `n_chunks` chunks."""

    model: Model
    figures: Figures
    n_chunks: int
    seconds: float


@dataclass
class Judging:
    """One command's work. `run` fills the lists, and leaves in them what an interrupt found."""

    models: Sequence[Model]
    base: Model | None
    base_identity: Identity | None
    text: JudgedBy
    settings: Settings
    how: HowToRun
    base_cache: Path | None
    registry: Registry
    progress: Progress
    judged: list[Judged] = field(default_factory=list)
    failed: list[tuple[Model, LocalLLMError]] = field(default_factory=list)
    advice: list[Advice] = field(default_factory=list)
    n_tokens: int | None = None
    interrupted: str | None = None  # how far it came
    _running: list[_Candidate] = field(default_factory=list)
    _tokens: tuple[Sequence[int], int | None] = ((), None)  # of the text, and BOS

    def run(self) -> None:
        """Raises what ends everything: a base that fails, different vocabularies, a text that is
        too short, and any failure where there is one model only."""
        done = "before the first chunk"
        try:
            if self.base is None:
                for model in self.models:
                    self._alone(model)
            else:
                self._against(self.base)
        except (KeyboardInterrupt, Interrupted):
            for candidate in self._running:
                if candidate.comparison.n_chunks:
                    self.judged.append(candidate.judged())
                    done = f"after {candidate.comparison.n_chunks} of {candidate.n_chunks} chunks"
            self.interrupted = done
        finally:
            for candidate in self._running:
                candidate.close()

    def _alone(self, model: Model) -> None:
        with self._attempt(model):
            candidate = self._candidate(model)
            chunks = self._chunks(candidate.opened.model.tokenizer)
            candidate.n_chunks = len(chunks)
            with self.progress.steps(f"quality {model.name}", len(chunks)) as advance:
                for group in self._groups(chunks):
                    candidate.feed(group, None)
                    advance(len(group), candidate.stands)
            self._finish(candidate)

    def _against(self, base: Model) -> None:
        own = vocabulary_of(base)
        for model in self.models:
            check_same(own, vocabulary_of(model))
        about = about_base(self.base_identity, self.text, self.settings, own)
        with BaseFile(self.base_cache, about, len(own.tokens), self.registry) as file:
            if file.exists:
                file.check()
                self._from_file(file)
            elif self._all_fit(base):
                self._together(base, file if self.base_cache else None)
            else:
                self._together(base, file, live=False)
                self._from_file(file)

    def _all_fit(self, base: Model) -> bool:
        from localllm.engine.quality.chunks import batch_size

        size = batch_size(self.settings.n_ctx)
        return fit_together([base, *self.models], this_machine(), self.how.plan, size)

    def _together(self, base: Model, file: BaseFile | None, *, live: bool = True) -> None:
        """The base's pass, with all candidates beside it if `live`, into `file` if given."""
        from localllm.engine.quality.quality import Judge

        with self._open(base) as opened, Judge(opened.context) as judge:
            chunks = self._chunks(opened.model.tokenizer)
            if live:
                for model in self.models:
                    with self._attempt(model):
                        self._candidate(model).n_chunks = len(chunks)
            writer = None if file is None else file.writer(*self._tokens, len(chunks))
            with contextlib.nullcontext() if writer is None else writer:
                n_passes = 1 + len(self._running)
                label = f"quality on {base.name}" if live else f"base {base.name}"
                with self.progress.steps(label, n_passes * len(chunks)) as advance:
                    for group in self._groups(chunks):
                        references = judge.references(group)
                        advance(len(group))
                        if writer is not None:
                            writer.add(references)
                        self._feed_all(group, references, advance)
                if writer is not None:
                    writer.finish()
            for candidate in list(self._running):
                self._finish(candidate)

    def _feed_all(
        self, group: Sequence[Chunk], references: Sequence[Reference], advance: Meter
    ) -> None:
        for candidate in list(self._running):
            with self._attempt(candidate.model):
                candidate.feed(group, references)
            several = f"{candidate.model.name}: " if len(self.models) > 1 else ""
            advance(len(group), f"{several}{candidate.stands}" if candidate.stands else "")

    def _from_file(self, file: BaseFile) -> None:
        """Each candidate against the base's figures in `file`, one after the other."""
        chunks = file.chunks(self.settings)
        self.n_tokens = file.n_tokens
        for model in self.models:
            with self._attempt(model):
                candidate = self._candidate(model)
                candidate.n_chunks = len(chunks)
                references = file.references()
                with self.progress.steps(f"quality {model.name}", len(chunks)) as advance:
                    for group in self._groups(chunks):
                        candidate.feed(group, [next(references) for _ in group])
                        advance(len(group), candidate.stands)
                self._finish(candidate)

    # --- parts ----------------------------------------------------------------------------

    def _chunks(self, tokenizer: Tokenizer) -> tuple[Chunk, ...]:
        from localllm.engine.quality.chunks import chunks_of

        tokens = tokenizer.encode(self.text.content)
        bos = tokenizer.bos if tokenizer.adds_bos else None
        self._tokens, self.n_tokens = (tokens, bos), len(tokens)
        return chunks_of(tokens, self.settings.n_ctx, bos, limit=self.settings.limit)

    def _groups(self, chunks: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
        """The chunks that are computed at once."""
        n = self.how.plan.n_parallel
        for i in range(0, len(chunks), n):
            yield chunks[i : i + n]

    def _open(self, model: Model) -> Opened:
        from localllm.engine.options import ContextOptions

        with self.progress.bytes(f"load {model.name}", model.size_bytes) as advance:
            opened = open_model(
                model.path, self.how.plan, require_gpu=self.how.require_gpu,
                force=self.how.force, context=ContextOptions(n_threads=self.how.threads or 0),
                advance=advance, adapters=model.attached,
            )  # fmt: skip
        self.advice += [one for one in opened.advice if one not in self.advice]
        return opened

    def _candidate(self, model: Model) -> _Candidate:
        from localllm.engine.quality.quality import Comparison

        opened = self._open(model)
        try:
            candidate = _Candidate(model, opened, Comparison(opened.context))
        except BaseException:
            opened.close()
            raise
        self._running.append(candidate)
        return candidate

    def _finish(self, candidate: _Candidate) -> None:
        self.judged.append(candidate.judged())
        self._running.remove(candidate)
        candidate.close()

    @contextlib.contextmanager
    def _attempt(self, model: Model) -> Iterator[None]:
        """Among several models one that fails leaves the others to go on."""
        try:
            yield
        except Interrupted:
            raise
        except LocalLLMError as error:
            if len(self.models) == 1:
                raise
            self.failed.append((model, error))
            for candidate in [c for c in self._running if c.model is model]:
                self._running.remove(candidate)
                candidate.close()


@dataclass
class _Candidate:
    """A candidate in memory and what is known of it so far."""

    model: Model
    opened: Opened
    comparison: Comparison
    n_chunks: int = 0
    seconds: float = 0.0

    def feed(self, group: Sequence[Chunk], references: Sequence[Reference] | None) -> None:
        begun = time.perf_counter()
        self.comparison.feed(group, references)
        self.seconds += time.perf_counter() - begun

    @property
    def stands(self) -> str:
        """The figures so far, for the progress line."""
        if not self.comparison.n_chunks:
            return ""
        perplexity, kld = self.comparison.running()
        return f"PPL {perplexity:.4g}" + ("" if kld is None else f", KLD {kld:.4g}")

    def judged(self) -> Judged:
        return Judged(self.model, self.comparison.figures(), self.n_chunks, self.seconds)

    def close(self) -> None:
        self.comparison.close()
        self.opened.close()
