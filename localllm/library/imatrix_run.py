"""Running a text through a model for its importance matrix, with checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import Interrupted, LocalLLMError, UsageProblem
from localllm.library.imatrix_job import Job, MadeImatrix
from localllm.ui import Progress

if TYPE_CHECKING:
    from localllm.engine.imatrix.imatrix import Chunks, Collector
    from localllm.engine.model import Model as LoadedModel
    from localllm.formats.imatrix import Imatrix
    from localllm.placement import Opened

_SAVE_CHUNKS, _SAVE_S = 10, 30.0


def run(
    job: Job,
    final: Path,
    partial: Path,
    progress: Progress,
    note: Callable[[str], None],
    resume: bool,
    begun: float,
) -> MadeImatrix:
    """Make the matrix at `final`, going on from the checkpoint `partial` if there is one."""
    from localllm.engine.imatrix.imatrix import Collector, Sums, batch_size
    from localllm.engine.options import ContextOptions
    from localllm.formats.imatrix import check_writable, write_imatrix
    from localllm.placement import PlanOptions, open_model

    for path in (final, partial):
        check_writable(path)
    before = _checkpoint(job, partial, note) if resume else None
    sums = {n: Sums(e.squares, e.counts) for n, e in before.entries.items()} if before else {}
    collector = Collector(output=job.options.output, entries=sums)
    size = batch_size(job.options.chunk_size)
    plan = PlanOptions(
        n_ctx=job.options.chunk_size,
        n_batch=size,
        n_ubatch=size,
        n_gpu_layers=job.options.n_gpu_layers,
    )
    context = ContextOptions(n_threads=job.options.n_threads, eval_hook=collector.hook)
    with open_model(
        job.model.path, plan, require_gpu=job.options.require_gpu, context=context
    ) as opened:
        for advice in opened.advice:
            note(advice.message + (f" ({advice.hint})" if advice.hint else ""))
        chunks = _chunks(job, opened.model)
        done = before.chunk_count if before else 0
        if done > len(chunks):
            raise UsageProblem(f"{partial} has {done} chunks already", "begin anew: --no-resume")
        if done:
            note(f"going on after {done} of {len(chunks)} chunks")
        with progress.steps("imatrix, chunks", len(chunks)) as advance:
            advance(done)
            _Saver(job, collector, partial, done, len(chunks)).run(opened, chunks, advance)
    made = job.imatrix(collector, len(chunks))
    write_imatrix(final, made)
    if partial != final:
        partial.unlink(missing_ok=True)
    return job.report(made, final, done, False, begun)


def _chunks(job: Job, model: LoadedModel) -> Chunks:
    """The text in whole chunks, as many as are wanted."""
    from localllm.engine.imatrix.imatrix import chunks_of

    tokenizer = model.tokenizer
    # llama.cpp's tools drop one line end at the end of a file
    tokens = tokenizer.encode(
        job.text.content.removesuffix("\n"), parse_special=job.options.parse_special
    )
    tokens = tokens[job.options.first_chunk * job.options.chunk_size :]
    chunks = chunks_of(tokens, job.options.chunk_size, tokenizer)
    if not len(chunks):
        raise UsageProblem(
            f"the text has {len(tokens)} tokens"
            + (f" after --from-chunk {job.options.first_chunk}" if job.options.first_chunk else "")
            + f", a chunk needs {job.options.chunk_size}",
            "more text, or a smaller --chunk-size",
        )
    return chunks.first(job.options.n_chunks)


def _checkpoint(job: Job, partial: Path, note: Callable[[str], None]) -> Imatrix | None:
    """The checkpoint to go on from. Raises UsageProblem where it is another job's."""
    from localllm.formats.imatrix import read_imatrix

    if not partial.is_file():
        return None
    try:
        found = read_imatrix(partial)
    except LocalLLMError as error:
        note(f"beginning anew: {error.message}")
        return None
    wanted = {**job.facts(), "chunk_size": str(job.options.chunk_size)}
    has = {**found.facts, "chunk_size": str(found.chunk_size)}
    for key, value in wanted.items():
        if has.get(key) != value:
            raise UsageProblem(
                f"{partial} is of another run: its {key.removesuffix('_sha256')} differs",
                "another --out, or begin anew with --no-resume",
            )
    return found


class _Saver:
    """Runs the chunks and saves the sums every now and then, and on Ctrl-C."""

    def __init__(
        self, job: Job, collector: Collector, path: Path, done: int, n_chunks: int
    ) -> None:
        self._job, self._collector, self._path = job, collector, path
        self._done = self._saved = done
        self._n_chunks = n_chunks
        self._saved_at = time.monotonic()

    def run(self, opened: Opened, chunks: Chunks, advance: Callable[[int], None]) -> None:
        from localllm.engine.imatrix.imatrix import collect

        def on_chunk(number: int) -> None:
            self._done = number + 1
            advance(1)
            due = time.monotonic() - self._saved_at >= _SAVE_S
            if due or self._done - self._saved >= _SAVE_CHUNKS:
                self._save()

        try:
            collect(opened.context, self._collector, chunks, self._done, on_chunk)
        except (KeyboardInterrupt, Interrupted):
            self._save()
            raise Interrupted(
                f"interrupted after {self._saved} of {self._n_chunks} chunks",
                "the same command goes on from there",
            ) from None

    def _save(self) -> None:
        from localllm.formats.imatrix import write_imatrix

        if self._collector.whole and self._done > self._saved and self._done < self._n_chunks:
            write_imatrix(self._path, self._job.imatrix(self._collector, self._done))
            self._saved, self._saved_at = self._done, time.monotonic()
