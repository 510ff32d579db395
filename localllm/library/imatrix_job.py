"""What determines an importance matrix, and what is said of one that was made."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm import __version__
from localllm.errors import UsageProblem
from localllm.registry import Model

if TYPE_CHECKING:
    from localllm.engine.imatrix.imatrix import Collector
    from localllm.formats.imatrix import Imatrix


@dataclass(frozen=True)
class ImatrixOptions:
    """How to measure. `chunk_size` is in tokens, `n_chunks` None takes the whole text. `output`
    measures the output layer too (or the token embedding that serves as one), which
    llama-imatrix leaves out unless told. `first_chunk` passes over so many of the text's chunks;
    `parse_special` reads control tokens that the text spells out ("<|im_end|>") as those tokens.
    `n_gpu_layers` None offloads all that fits."""

    chunk_size: int = 512
    n_chunks: int | None = None
    first_chunk: int = 0
    output: bool = False
    parse_special: bool = False
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
    """What determines a matrix. `digest` is of the model's weights."""

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
        if self.options.first_chunk:
            parts.append(f"from{self.options.first_chunk}")
        if self.options.parse_special:
            parts.append("special")
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
            "special": "yes" if self.options.parse_special else "no",
            "first_chunk": str(self.options.first_chunk),
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
