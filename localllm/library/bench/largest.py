"""The largest batches that fit beside as many layers as fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localllm.placement import Plan

FIT = 0  # in place of a number: the largest that fits

MOST_PARALLEL = 256  # sequences of one context (LLAMA_MAX_SEQ)
_LEAST_UBATCH = 64


def counts_up_to(n: int) -> tuple[int, ...]:
    """1, 2, 4 ... and `n` itself."""
    powers = [1 << i for i in range(n.bit_length()) if 1 << i < n]
    return (*powers, n)


def largest_ubatch(plan: Callable[[int], Plan], n_batch: int) -> int:
    """The largest micro-batch, a power of two of at most `n_batch` tokens, with which as many
    layers are on GPUs as with the smallest; `plan` says where everything goes with one. The
    smallest where nothing fits. Raises what `plan` raises."""
    least = min(_LEAST_UBATCH, n_batch)
    sizes = [size for size in (least << i for i in range(32)) if size <= n_batch]
    if sizes[-1] != n_batch:
        sizes.append(n_batch)
    return sizes[_last_like_first(plan, sizes)]


def largest_parallel(plan: Callable[[int], Plan], n_batch: int) -> int:
    """The most sequences whose cache leaves as many layers on GPUs as one sequence's does; at
    most MOST_PARALLEL, and `n_batch`, since a step has a token of each. 1 where not even that
    fits. Raises what `plan` raises."""
    return 1 + _last_like_first(plan, range(1, min(MOST_PARALLEL, n_batch) + 1))


def _last_like_first(plan: Callable[[int], Plan], sizes: range | list[int]) -> int:
    """The place of the last size that needs no layer moved; needs only grow with the size, so
    a few are tried."""
    first = plan(sizes[0])
    good, bad = 0, len(sizes)
    while bad - good > 1:
        middle = (good + bad) // 2
        tried = plan(sizes[middle])
        if tried.runs and tried.n_offloaded >= first.n_offloaded:
            good = middle
        else:
            bad = middle
    return good
