"""Running a text through a model for its importance matrix, with checkpoints."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm import __version__
from localllm.errors import Interrupted, LocalLLMError, UsageProblem
from localllm.registry import Model
from localllm.ui import Progress

if TYPE_CHECKING:
    from localllm.engine.imatrix import Chunks, Collector
    from localllm.engine.model import Model as LoadedModel
    from localllm.formats.imatrix import Imatrix
    from localllm.placement import Opened

_SAVE_CHUNKS, _SAVE_S = 10, 30.0


@dataclass(frozen=True)
class ImatrixOptions:
    """How to measure. `chunk_size` is in tokens, `n_chunks` None takes the whole text. `output`
    measures the output layer too (or the token embedding that serves as one), which
    llama-imatrix leaves out unless told. `n_gpu_layers` None offloads all that fits."""

    chunk_size: int = 512
    n_chunks: int | None = None
    output: bool = False
    n_threads: int = 0
    n_gpu_layers: int | None = None
    require_gpu: bool = False

    def __post_init__(self) -> None:
        if self.chunk_size < 16:
            raise UsageProblem("a chunk needs 16 tokens at least", "--chunk-size 512")
        if self.n_chunks is not None and self.n_chunks < 1:
            raise UsageProblem("at least one chunk is needed", "--chunks 100")


@dataclass(frozen=True)
class CalibrationText:
    """What is run through the model. `sha256` is of each text, joined by spaces."""

    names: tuple[str, ...]
    content: str
    sha256: str


@dataclass(frozen=True)
class QuietExperts:
    """Experts of one tensor that no token was sent to: nothing is known of their importance."""

    tensor: str
    experts: tuple[int, ...]
    n_experts: int


@dataclass(frozen=True)
class MadeImatrix:
    """`n_resumed` chunks came from an interrupted run; `reused` means that all did, from a
    matrix made before. `elapsed_s` is loading and computing."""

    path: Path
    model: str
    model_sha256: str | None
    datasets: tuple[str, ...]
    text_sha256: str
    chunk_size: int
    n_chunks: int
    n_tokens: int
    n_tensors: int
    quiet: tuple[QuietExperts, ...]
    n_resumed: int
    reused: bool
    elapsed_s: float


@dataclass(frozen=True)
class Job:
    """What determines a matrix. `digest` is of the model's first weights file."""

    model: Model
    digest: str | None
    text: CalibrationText
    options: ImatrixOptions

    @property
    def name(self) -> str:
        return matrix_name(self.model)

    @property
    def mark(self) -> str:
        """Names the matrix among those of its model's name."""
        parts = [
            (self.digest or "")[:12],
            hashlib.sha256(self.text.sha256.encode()).hexdigest()[:16],
        ]
        parts.append(f"c{self.options.chunk_size}")
        if self.options.n_chunks is not None:
            parts.append(f"n{self.options.n_chunks}")
        if self.options.output:
            parts.append("output")
        return "-".join(parts)

    @property
    def key(self) -> str:
        return f"imatrix {self.name} {self.digest} {self.mark}"

    def facts(self) -> dict[str, str]:
        """What a checkpoint must agree in to be gone on from."""
        return {
            "model": self.name,
            "model_sha256": self.digest or "",
            "text_sha256": self.text.sha256,
            "output": "yes" if self.options.output else "no",
        }

    def imatrix(self, collector: Collector, n_chunks: int) -> Imatrix:
        from importlib.metadata import version

        from localllm.formats.imatrix import Entry, Imatrix

        size = self.options.chunk_size
        versions = {"localllm": __version__, "llama_cpp_python": version("llama-cpp-python")}
        return Imatrix(
            {name: Entry(e.squares, e.counts) for name, e in collector.entries.items()},
            self.text.names,
            n_chunks,
            size,
            {**self.facts(), "tokens": str(n_chunks * size), **versions},
        )

    def report(
        self, made: Imatrix, path: Path, n_resumed: int, reused: bool, begun: float
    ) -> MadeImatrix:
        return MadeImatrix(
            path=path,
            model=self.name,
            model_sha256=self.digest,
            datasets=self.text.names,
            text_sha256=self.text.sha256,
            chunk_size=made.chunk_size,
            n_chunks=made.chunk_count,
            n_tokens=made.chunk_count * made.chunk_size,
            n_tensors=len(made.entries),
            quiet=quiet_experts(made),
            n_resumed=n_resumed,
            reused=reused,
            elapsed_s=time.perf_counter() - begun,
        )


def matrix_name(model: Model) -> str:
    """What matrices are kept under: a file that is not registered may be named by any path."""
    return model.path.name if model.id is None else model.name


def quiet_experts(imatrix: Imatrix) -> tuple[QuietExperts, ...]:
    """Every tensor with experts that were never chosen."""
    found = []
    for name, entry in sorted(imatrix.entries.items()):
        silent = tuple(int(n) for n in (entry.counts == 0).nonzero()[0])
        if silent:
            found.append(QuietExperts(name, silent, int(entry.counts.size)))
    return tuple(found)


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
    from localllm.engine.imatrix import Collector, Sums, batch_size
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
    from localllm.engine.imatrix import chunks_of

    tokenizer = model.tokenizer
    # llama.cpp's tools drop one line end at the end of a file
    tokens = tokenizer.encode(job.text.content.removesuffix("\n"))
    chunks = chunks_of(tokens, job.options.chunk_size, tokenizer)
    if not len(chunks):
        raise UsageProblem(
            f"the text has {len(tokens)} tokens, a chunk needs {job.options.chunk_size}",
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
        from localllm.engine.imatrix import collect

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
