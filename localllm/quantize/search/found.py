"""What a search comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class GroupDamage:
    """One group of tensors in the result. `kld` is what quantizing it alone to `probe` did,
    nats a token, None where that was not measured; `predicted_kld` what it does as chosen (in
    units of error where nothing was measured)."""

    group: str
    n_tensors: int
    types: Mapping[str, int]  # type -> tensors
    size_bytes: int
    error: float  # sum of the tensors' weighted relative errors as chosen
    probe: str | None
    kld: float | None
    predicted_kld: float


@dataclass(frozen=True)
class Found:
    """`types` of the tensors that could be chosen, the sum of their sizes, and what the model of
    damages predicts; `bound` is a prediction that no choice could be under. `kld` is the whole
    choice's divergence with all tensors that were pinned, on the text it was searched with."""

    types: Mapping[str, str]
    size_bytes: int
    predicted: float
    bound: float
    kld: float | None
    groups: tuple[GroupDamage, ...]
    runs: int
    took_s: float
    complete: bool  # false: time ran out before every group was measured
