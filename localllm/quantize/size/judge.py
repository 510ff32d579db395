"""Two files by the same contexts: how much further one is from the original than the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.placement import PlanOptions, open_model
from localllm.quantize.size.text import JUDGE, Contexts

if TYPE_CHECKING:
    from localllm.engine.quality.chunks import Chunk
    from localllm.engine.quality.interval import Estimate
    from localllm.engine.quality.rows import Reference

_RESAMPLES = 10_000
_FEW = 8  # contexts under which resampling says nothing


@dataclass(frozen=True)
class Change:
    """How the mean divergence changed: `relative` is -0.2 where it is 20 % lower. `low` to
    `high` is the 95 % interval from resampling the contexts, both files' together; None with
    fewer than eight."""

    relative: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Side:
    """One of two files. `mean_kld` is its divergence from the original in nats a token."""

    name: str
    file_bytes: int
    mean_kld: Estimate
    of_contexts: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """The searched file beside the preset's, on the same contexts of a text that decided
    nothing else: `n_contexts` of them, `n_tokens` scored in all."""

    ours: Side
    preset: Side
    change: Change
    n_contexts: int
    n_tokens: int
    text: str
    text_sha256: str

    @property
    def won(self) -> bool:
        return self.ours.mean_kld.value < self.preset.mean_kld.value


@dataclass(frozen=True)
class Answers:
    """A file's divergence from the original: the mean in nats a token, and each context's."""

    mean_kld: Estimate
    of_contexts: tuple[float, ...]


def change(ours: Sequence[float], theirs: Sequence[float]) -> Change:
    """From the mean divergences of the same contexts, in the same order."""
    import numpy as np

    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if b.mean() <= 0:
        return Change(0.0 if a.mean() <= 0 else float("inf"), None, None)
    relative = float(a.mean() / b.mean() - 1)
    if len(a) < _FEW:
        return Change(relative, None, None)
    picked = np.random.default_rng(0).integers(0, len(a), (_RESAMPLES, len(a)))
    means = b[picked].mean(axis=1)
    ratios = a[picked].mean(axis=1)[means > 0] / means[means > 0] - 1
    low, high = (float(q) for q in np.quantile(ratios, [0.025, 0.975]))
    return Change(relative, low, high)


def answers(
    path: Path,
    chunks: Sequence[Chunk],
    references: Sequence[Reference],
    n_threads: int,
    contexts: Contexts = JUDGE,
) -> Answers:
    """Load the file at `path` and compare it with the original's `references`."""
    from localllm.engine.options import ContextOptions
    from localllm.engine.quality.quality import kld_sample

    with open_model(
        path, plan_options(contexts), context=ContextOptions(n_threads=n_threads)
    ) as opened:
        sample = kld_sample(opened.context, chunks, references, n_threads)
    return Answers(sample.mean, sample.of_chunks)


def plan_options(contexts: Contexts, *, mmap: bool = True) -> PlanOptions:
    """What a model is opened with to compute such contexts."""
    from localllm.engine.quality.chunks import batch_size

    size = batch_size(contexts.n_ctx)
    return PlanOptions(
        n_ctx=contexts.n_ctx, n_parallel=size.n_parallel, n_batch=size.n_batch,
        n_ubatch=size.n_ubatch, mmap=mmap,
    )  # fmt: skip
