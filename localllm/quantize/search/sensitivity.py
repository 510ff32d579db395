"""What each type does to each tensor, without running the model.

For a matrix W that meets activations x, the output's error is (W - W')x; with the importance
matrix E[x_j^2] on its diagonal its expected square is sum_ij (W - W')_ij^2 E[x_j^2]. Divided by
the same sum of W itself this is the share of the output's energy that is lost: the weighted
relative error, which can be compared and added over tensors.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localllm.engine.ftypes import WEIGHTED_TYPES
from localllm.engine.ggml_types import RowType, row_type
from localllm.quantize.search.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAMPLE = 65_536  # numbers of each tensor that are quantized: the error is then good to 1 or 2 %
Vectors = Mapping[str, Any]  # tensor name -> mean squared activations, experts one after another


@dataclass(frozen=True)
class Damage:
    """One type on one tensor. `error` is the weighted relative error, 0 (none) to about 1."""

    tensor: str
    type: str
    size_bytes: int
    error: float


def damages(
    weights: Weights,
    tensors: Sequence[str],
    types: Sequence[str],
    importance: Vectors,
    *,
    n_threads: int,
    sample: int = SAMPLE,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, tuple[Damage, ...]]:
    """By tensor, every one of `types` that its rows and its importance allow.

    The rows sampled are spread over the tensor, the same at every call. A type that needs an
    importance matrix is left out where a tensor has none. `advance` counts tensors.
    """
    kinds = [row_type(name) for name in types]
    for kind in kinds:  # tables are made on first use, which is no work for several threads
        _warm(kind)

    def one(name: str) -> tuple[str, tuple[Damage, ...]]:
        found = tuple(_damages(weights, name, kinds, importance.get(name), sample))
        advance(1)
        return name, found

    with ThreadPoolExecutor(max_workers=max(1, n_threads)) as pool:
        return dict(pool.map(one, tensors))


def _damages(
    weights: Weights, name: str, kinds: Sequence[RowType], vector: Any, sample: int
) -> Iterator[Damage]:
    import numpy as np

    n_rows, n_per_row = weights.shape(name)
    chosen = _spread(n_rows, max(1, sample // n_per_row))
    rows = weights.rows(name, chosen)
    columns = _per_row(vector, chosen, n_rows, n_per_row)
    energy = float(np.einsum("ij,ij,ij->", rows, rows, columns, dtype=np.float64))
    for kind in kinds:
        # the embedding and the output, which llama.cpp lets pass, would be no better for it
        lacks = vector is None and kind.name.lower() in WEIGHTED_TYPES
        if n_per_row % kind.block_elements or lacks:
            continue
        lost = 0.0
        # Rows of one expert share their importance; others are quantized on their own.
        for start, end in _runs(columns):
            weight = None if vector is None else columns[start]
            back = kind.dequantize(kind.quantize(rows[start:end], weight), n_per_row)
            gap = back - rows[start:end]
            lost += float(np.einsum("ij,ij,j->", gap, gap, columns[start], dtype=np.float64))
        yield Damage(
            name, kind.name.lower(), n_rows * kind.row_bytes(n_per_row),
            lost / energy if energy > 0 else 0.0,
        )  # fmt: skip


def _spread(n_rows: int, wanted: int) -> NDArray[np.int64]:
    """Row numbers, evenly over the tensor, with a step that no pattern of heads divides."""
    import numpy as np

    if wanted >= n_rows:
        return np.arange(n_rows)
    # The golden ratio's multiples fill a circle most evenly.
    at = np.modf(np.arange(1, wanted + 1) * 0.6180339887498949)[0]
    return np.unique((at * n_rows).astype(np.int64))


def _per_row(vector: Any, chosen: Any, n_rows: int, n_per_row: int) -> NDArray[np.float32]:
    """The importance of each sampled row's columns; ones where there is none. An expert that
    no token reached counts evenly."""
    import numpy as np

    if vector is None:
        return np.ones((len(chosen), n_per_row), dtype=np.float32)
    experts = np.asarray(vector, dtype=np.float32).reshape(-1, n_per_row).copy()
    experts[experts.sum(axis=1) <= 0] = 1.0
    found: NDArray[np.float32] = experts[chosen * len(experts) // n_rows]
    return found


def _runs(columns: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Stretches of rows with the same importance."""
    import numpy as np

    changes = np.flatnonzero((columns[1:] != columns[:-1]).any(axis=1)) + 1
    edges = [0, *changes.tolist(), len(columns)]
    return list(itertools.pairwise(edges))


def _warm(kind: RowType) -> None:
    import numpy as np

    n = kind.block_elements
    kind.quantize(np.ones((1, n), np.float32), np.ones(n, np.float32))
