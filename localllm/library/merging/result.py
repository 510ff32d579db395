"""What a merge of adapters takes and says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localllm.library.merging.survival import Survival
from localllm.registry import Model


@dataclass(frozen=True)
class LossRequest:
    """How the held-out loss is measured: on `texts` (none: the text that ships with the
    program), in `n_chunks` contexts of 512 tokens."""

    texts: tuple[Path, ...] = ()
    n_chunks: int = 8
    n_threads: int | None = None


@dataclass(frozen=True)
class AdapterRequest:
    """`type` None: the smallest that keeps the tuning, by measurement. `loss` None: not measured.

    `keep_others` leaves every tensor that no adapter changes as it is; otherwise those in F32,
    F16 or BF16 follow the type. `allow_loss` merges although the tuning is lost, `any_base`
    although the adapter says that it was trained on another model.
    """

    type: str | None = None
    name: str | None = None
    imatrix: Path | None = None
    keep_others: bool = False
    allow_loss: bool = False
    any_base: bool = False
    loss: LossRequest | None = None
    n_threads: int = 0


@dataclass(frozen=True)
class TypeTrial:
    """What a type would keep, from a sample of each tensor that is changed.

    `own_type`: most of them are stored in that very type already.
    """

    type: str
    survival: Survival
    own_type: bool
    keeps: bool
    file_bytes: int


@dataclass(frozen=True)
class TensorOutcome:
    """One tensor of the result; `survival` None where no adapter changes it."""

    name: str
    shape: tuple[int, ...]
    from_type: str
    to_type: str
    before_bytes: int
    after_bytes: int
    survival: Survival | None


@dataclass(frozen=True)
class Losses:
    """Mean negative log-likelihood a token in nats, of the same tokens: the base, the base with
    the adapters attached as `chat --lora` does, and the merged file; None where not measured
    (`why`).

    `kept` is the share of the adapters' gain that the merged file has, None where they gain
    nothing on this text beyond its noise; `gain_error` is the standard error of that gain.
    """

    text: str
    text_sha256: str
    n_tokens: int
    n_chunks: int
    base: float
    with_adapters: float | None
    merged: float | None
    gain_error: float | None
    kept: float | None
    why: str | None = None


@dataclass(frozen=True)
class MergedAdapters:
    """What was made, or (`model` None) would be.

    `survival` counts every changed weight; with `sampled` it is from a sample of them.
    `file_bytes` is exact before anything is written. `untied`: the result has an output tensor
    of its own, which the base has not. `ignored` are norms that adapters hold and that
    llama.cpp does not apply either.
    """

    model: Model | None
    name: str
    base: str
    adapters: tuple[tuple[str, float], ...]
    type: str
    reused: bool
    file_bytes: int
    survival: Survival
    sampled: bool
    tried: tuple[TypeTrial, ...]
    tensors: tuple[TensorOutcome, ...]
    untied: bool
    ignored: tuple[str, ...]
    loss: Losses | None
    elapsed_s: float
