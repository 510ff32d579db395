"""What a quantization takes and what it says: the values around `quantize`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# llama.cpp's own default is 8 GiB. The rows of a tensor are independent of each other, so the
# bytes that come out are the same whatever the buffer; see benchmarks/quantize_speed.py.
DEFAULT_BUFFER_BYTES = 256 << 20


@dataclass(frozen=True)
class ImportanceVector:
    """Where a tensor's importance lies in an `ImportanceFile`, in float32 elements."""

    tensor: str
    offset: int
    length: int


@dataclass(frozen=True)
class ImportanceFile:
    """Importance vectors as raw little-endian float32, mapped by the process that quantizes.

    `length` of a vector is the tensor's row length times its experts (ne[0] * ne[2]). A plan
    needs no vectors, and no file."""

    path: Path
    vectors: tuple[ImportanceVector, ...]


@dataclass(frozen=True)
class QuantizeOptions:
    """What llama-quantize takes. `tensor_types` are (regular expression, type), first hit wins;
    the expression is searched, so anchor it: r"^blk\\.0\\.attn_v\\.weight$"."""

    ftype: str
    output_type: str | None = None
    token_embedding_type: str | None = None
    tensor_types: tuple[tuple[str, str], ...] = ()
    pure: bool = False  # one type for all tensors
    leave_output: bool = False  # keep output.weight as it is
    allow_requantize: bool = False  # from a source that is quantized already; loses quality
    keep_split: bool = False  # as many shards as the source has
    prune_layers: tuple[int, ...] = ()  # blocks to leave out; those behind them move up
    importance: ImportanceFile | None = None
    n_threads: int = 0  # 0 = all that the hardware has
    max_buffer_bytes: int = DEFAULT_BUFFER_BYTES  # rows held at once, at least one row
    metadata: Mapping[str, int | float | bool | str] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorPlan:
    """One tensor on its way. `number` counts from 1 to `total`."""

    name: str
    shape: tuple[int, ...]
    from_type: str
    to_type: str
    before_bytes: int
    after_bytes: int
    number: int
    total: int


@dataclass(frozen=True)
class Fallback:
    """A tensor whose rows do not divide into the wanted type's blocks."""

    tensor: str
    wanted: str
    used: str
    row_length: int
    block_length: int


@dataclass(frozen=True)
class QuantizeReport:
    """What was made, or would be. Sizes are of tensor data; files add their header."""

    source: Path
    outputs: tuple[Path, ...]  # empty for a plan
    ftype: str
    tensors: tuple[TensorPlan, ...]
    fallbacks: tuple[Fallback, ...]
    before_bytes: int
    after_bytes: int
    n_params: int
    unweighted: tuple[str, ...]  # quantized without importance though others had it
    needs_imatrix: bool  # a plan only: this recipe cannot be made without one
    llama_commit: str  # of the llama.cpp that did it
    elapsed_s: float

    @property
    def bits_per_weight(self) -> float:
        return self.after_bytes * 8 / self.n_params if self.n_params else 0.0
