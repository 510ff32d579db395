"""What an importance matrix says, by llama-imatrix's own definitions (--show-statistics)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from localllm.formats.imatrix import Entry

_LAYER = re.compile(r"(?:^|\.)blk\.(\d+)\.")
_ACTIVE = 1e-5  # a mean square above this counts as active


@dataclass(frozen=True)
class TensorStatistics:
    """Of the mean squared inputs of one tensor, experts without tokens left out.

    `total` is their sum; `mean`, `std`, `min` and `max` are over the `n_inputs`; `active` is the
    share above 1e-5; `entropy_bits` is that of the distribution they are when divided by
    `total`, and `entropy_share` that as a share of the largest there could be; `zd` is the share
    more than one standard deviation above the mean; `cosine` is with the same tensor of the
    layer before (None without one).
    """

    tensor: str
    layer: int | None
    total: float
    min: float
    max: float
    mean: float
    std: float
    active: float
    n_inputs: int
    entropy_bits: float
    entropy_share: float
    zd: float
    cosine: float | None
    n_tokens: int  # most of any expert
    n_experts: int
    n_quiet: int  # experts without tokens


@dataclass(frozen=True)
class LayerStatistics:
    """Means over a layer's tensors, weighted by their inputs."""

    layer: int
    total: float
    zd: float
    cosine: float


def tensor_statistics(entries: Mapping[str, Entry]) -> tuple[TensorStatistics, ...]:
    """By kind of tensor, the largest total first, as llama-imatrix lists them."""
    found = [s for name, entry in entries.items() if (s := _statistics(name, entry)) is not None]
    whole = [replace(s, cosine=_cosine(s, entries)) for s in found]
    return tuple(sorted(whole, key=lambda s: (_kind(s.tensor), -s.total)))


def layer_statistics(tensors: tuple[TensorStatistics, ...]) -> tuple[LayerStatistics, ...]:
    """One row a layer, in order."""
    layers: dict[int, list[TensorStatistics]] = {}
    for tensor in tensors:
        if tensor.layer is not None:
            layers.setdefault(tensor.layer, []).append(tensor)
    rows = []
    for layer, members in sorted(layers.items()):
        n = sum(t.n_inputs for t in members)
        rows.append(
            LayerStatistics(
                layer,
                sum(t.n_inputs * t.total for t in members) / n,
                sum(t.n_inputs * t.zd for t in members) / n,
                sum(t.n_inputs * (t.cosine or 0.0) for t in members) / n,
            )
        )
    return tuple(rows)


def _statistics(name: str, entry: Entry) -> TensorStatistics | None:
    """None where no expert got a token."""
    import numpy as np

    counts = entry.counts.astype(np.float64)
    rows = entry.squares.astype(np.float64).reshape(counts.size, -1)
    used = counts > 0
    if not used.any():
        return None
    means = (rows[used] / counts[used, None]).ravel()
    total, mean = float(means.sum()), float(means.mean())
    std = math.sqrt(max(0.0, float((means * means).mean()) - mean * mean))
    entropy = _entropy_bits(means, total)
    match = _LAYER.search(name)
    return TensorStatistics(
        tensor=name,
        layer=int(match[1]) if match else None,
        total=total,
        min=float(means.min()),
        max=float(means.max()),
        mean=mean,
        std=std,
        active=float((np.abs(means) > _ACTIVE).mean()),
        n_inputs=means.size,
        entropy_bits=entropy,
        entropy_share=entropy / math.log2(means.size) if means.size > 1 else 0.0,
        zd=float(((means - mean) / std > 1).mean()) if std > 0 else 0.0,
        cosine=None,
        n_tokens=int(entry.counts.max()),
        n_experts=int(entry.counts.size),
        n_quiet=int((~used).sum()),
    )


def _entropy_bits(means: NDArray[np.float64], total: float) -> float:
    import numpy as np

    if total <= 0:
        return 0.0
    shares = means[means > 0] / total
    return max(0.0, float(-(shares * np.log2(shares)).sum()))


def _cosine(statistics: TensorStatistics, entries: Mapping[str, Entry]) -> float | None:
    """Of the sums, not the means: they differ only in experts that get unequal shares."""
    import numpy as np

    if not statistics.layer:
        return None
    name = statistics.tensor
    before = entries.get(
        name.replace(f"blk.{statistics.layer}.", f"blk.{statistics.layer - 1}.", 1)
    )
    if before is None or before.squares.size != entries[name].squares.size:
        return None
    a, b = (e.squares.astype(np.float64) for e in (entries[name], before))
    length = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / length if length else None


def _kind(tensor: str) -> str:
    """`attn_k` of `blk.3.attn_k.weight`."""
    parts = tensor.split(".")
    return parts[parts.index("weight") - 1] if "weight" in parts[1:] else tensor
