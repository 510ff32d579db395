"""Rows of logits to numbers: log-probabilities, KL divergence, top tokens.

A row is the whole vocabulary, up to a megabyte: numpy goes over it a few times (the maximum, the
exponentials' sum, which tokens count), on several threads, which works because numpy lets the
interpreter go. Exponentials are float32, as llama-perplexity's; what is added up over the tokens
that count is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from localllm.closing import Closing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

# llama-perplexity adds up the divergence over the tokens to which the base model gives a
# log-probability over this, and its file of base logits holds nothing that is further than this
# below the likeliest token.
CUTOFF = 16.0


@dataclass(frozen=True)
class Scored:
    """One number a row: negative log-likelihood of the target in nats, the likeliest token."""

    nll: NDArray[np.float64]
    top: NDArray[np.int32]


@dataclass(frozen=True)
class Reference:
    """A base model's distributions, of which nothing that counts is left out.

    Row i's tokens with a log-probability over -CUTOFF are `ids[offsets[i]:offsets[i + 1]]` with
    their `logits`; a log-probability is the logit less the row's `normalizer`. Eight bytes a
    kept token: at a vocabulary of 262k about 8,000 a row (67 kB), where all would be 1 MB.
    `floored_nll` is `nll` as llama-perplexity's file would have it: see CUTOFF.
    """

    n_vocab: int
    offsets: NDArray[np.int64]  # [n + 1]
    ids: NDArray[np.int32]
    logits: NDArray[np.float32]
    normalizer: NDArray[np.float64]  # [n]
    nll: NDArray[np.float64]
    floored_nll: NDArray[np.float64]
    top: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.normalizer)

    @property
    def n_bytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in ARRAYS)

    def part(self, start: int, stop: int) -> Reference:
        """Rows `start` to `stop`, without a copy."""
        low, high = int(self.offsets[start]), int(self.offsets[stop])
        return Reference(
            self.n_vocab,
            self.offsets[start : stop + 1] - low, self.ids[low:high], self.logits[low:high],
            *(getattr(self, name)[start:stop] for name in ARRAYS[3:]),
        )  # fmt: skip


ARRAYS = ("offsets", "ids", "logits", "normalizer", "nll", "floored_nll", "top")


@dataclass(frozen=True)
class Compared:
    """One number a row: what a candidate makes of rows whose reference is known.

    `kld` is the divergence of the candidate from the base in nats, `p_diff` the target's
    probability less the base's, `same_top` whether both have the same likeliest token.
    """

    nll: NDArray[np.float64]
    kld: NDArray[np.float64]
    p_diff: NDArray[np.float64]
    same_top: NDArray[np.bool_]


class RowWorkers(Closing):
    """Threads that share the rows, each with a buffer as long as the vocabulary."""

    def __init__(self, n_threads: int, n_vocab: int) -> None:
        import numpy as np

        self.n_threads = max(1, n_threads)
        self._buffers = [np.empty(n_vocab, dtype=np.float32) for _ in range(self.n_threads)]
        self._pool = ThreadPoolExecutor(self.n_threads, "localllm-rows")

    def each(self, work: Callable[[int, NDArray[np.float32]], T], n: int) -> list[T]:
        """`[work(i, buffer) for i in range(n)]`, shared among the threads."""
        futures = [
            self._pool.submit(_share, work, range(k, n, self.n_threads), buffer)
            for k, buffer in enumerate(self._buffers)
        ]
        found: list[T | None] = [None] * n
        for k, future in enumerate(futures):
            found[k :: self.n_threads] = future.result()
        return found  # type: ignore[return-value]

    def close(self) -> None:
        self._pool.shutdown()


def score(workers: RowWorkers, logits: NDArray[np.float32], targets: Sequence[int]) -> Scored:
    """Score `logits` [n, n_vocab]. NaN in a row makes its figures NaN."""
    import numpy as np

    def one(i: int, buffer: NDArray[np.float32]) -> tuple[float, int]:
        top, normalizer = _normalizer(logits[i], buffer)
        return normalizer - float(logits[i, targets[i]]), top

    nll, top = _columns(workers.each(one, len(logits)), 2)
    return Scored(np.array(nll, np.float64), np.array(top, np.int32))


def reference(
    workers: RowWorkers, logits: NDArray[np.float32], targets: Sequence[int]
) -> Reference:
    """What to compare others with. NaN in a row makes its figures NaN, and keeps no token."""
    import numpy as np

    def one(
        i: int, buffer: NDArray[np.float32]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], float, float, float, int]:
        row = logits[i]
        top, normalizer = _normalizer(row, buffer)
        ids = np.flatnonzero(row > np.float32(normalizer - CUTOFF)).astype(np.int32)
        nll = normalizer - float(row[targets[i]])
        # the least log-probability that the file holds is CUTOFF below the likeliest token's
        floored = min(nll, CUTOFF + normalizer - float(row[top]))
        return ids, row[ids], normalizer, nll, floored, top

    ids, kept, normalizer, nll, floored, top = _columns(workers.each(one, len(logits)), 6)
    offsets = np.zeros(len(logits) + 1, np.int64)
    np.cumsum([len(own) for own in ids], out=offsets[1:])
    return Reference(
        n_vocab=logits.shape[1],
        offsets=offsets,
        ids=np.concatenate(ids) if ids else np.empty(0, np.int32),
        logits=np.concatenate(kept) if kept else np.empty(0, np.float32),
        normalizer=np.array(normalizer, np.float64),
        nll=np.array(nll, np.float64),
        floored_nll=np.array(floored, np.float64),
        top=np.array(top, np.int32),
    )


def compare(
    workers: RowWorkers, base: Reference, logits: NDArray[np.float32], targets: Sequence[int]
) -> Compared:
    """Compare `logits` [n, n_vocab] with as many rows of `base`."""
    import numpy as np

    def one(i: int, buffer: NDArray[np.float32]) -> tuple[float, float, int]:
        row = logits[i]
        top, normalizer = _normalizer(row, buffer)
        kept = slice(base.offsets[i], base.offsets[i + 1])
        log_p = base.logits[kept].astype(np.float64)
        log_p -= base.normalizer[i]
        log_q = row[base.ids[kept]].astype(np.float64)
        log_q -= normalizer
        np.subtract(log_p, log_q, out=log_q)
        np.exp(log_p, out=log_p)
        log_p *= log_q
        return normalizer - float(row[targets[i]]), float(log_p.sum()), top

    nll_list, kld, top = _columns(workers.each(one, len(logits)), 3)
    nll = np.array(nll_list, np.float64)
    return Compared(
        nll, np.array(kld, np.float64), np.exp(-nll) - np.exp(-base.nll),
        np.array(top, np.int32) == base.top,
    )  # fmt: skip


def joined(parts: Sequence[Reference]) -> Reference:
    """The rows of all `parts`, in order."""
    import numpy as np

    if len(parts) == 1:
        return parts[0]
    shifts = np.cumsum([0, *(len(part.ids) for part in parts)])
    offsets = [part.offsets[:-1] + shift for part, shift in zip(parts, shifts, strict=False)]
    return Reference(
        parts[0].n_vocab,
        np.concatenate([*offsets, shifts[-1:]]),
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS[1:]),
    )


def _normalizer(row: NDArray[np.float32], buffer: NDArray[np.float32]) -> tuple[int, float]:
    """The likeliest token and ln of the sum of exp(logit), NaN if a logit is NaN."""
    import numpy as np

    top = int(row.argmax())  # the first NaN where there is one
    most = float(row[top])
    if not math.isfinite(most):
        return top, math.nan
    np.subtract(row, row[top], out=buffer)
    np.exp(buffer, out=buffer)
    return top, most + math.log(float(buffer.sum()))


def _share(
    work: Callable[[int, NDArray[np.float32]], T],
    rows: range,
    buffer: NDArray[np.float32],
) -> list[T]:
    return [work(i, buffer) for i in rows]


def _columns(rows: Sequence[tuple[Any, ...]], n: int) -> list[list[Any]]:
    """Rows of `n` values, as `n` lists."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(n)]
