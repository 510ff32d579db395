"""GGUF files written tensor by tensor: with metadata of their own, or with another file's."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.formats.gguf import GGML_TYPES, GGMLType, GGUFHeader, ValueType, parse_header
from localllm.formats.gguf.edit import Encoder
from localllm.formats.gguf.metadata import Scalar
from localllm.formats.gguf.rewrite import NewTensor, new_header

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Chunks = Iterable[NDArray[Any] | bytes | memoryview]

Value = Scalar | Sequence[Scalar]
# what llama.cpp reads as this type without asking which it is
_TYPES = {"tokenizer.ggml.token_type": ValueType.I32}
_BY_NAME = {kind.name: kind for kind in GGML_TYPES.values()}


@dataclass(frozen=True)
class TensorOut:
    """A tensor to write. `shape` in torch's order; `chunks` makes its bytes when its turn comes,
    so one tensor is in memory at a time."""

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    chunks: Callable[[], Chunks]

    @property
    def size_bytes(self) -> int:
        return self.new.size_bytes

    @property
    def new(self) -> NewTensor:
        return NewTensor(self.name, tuple(reversed(self.shape)), self.type)


def tensor_type(name: str) -> GGMLType:
    """The type of this name ("F16"), in any case. Raises KeyError."""
    return _BY_NAME[name.upper()]


def fresh_header(name: str, values: Mapping[str, Value]) -> GGUFHeader:
    """A header of nothing but metadata, for `write_gguf`. Whole numbers are u32 where they fit."""
    encode = Encoder("<", 3)
    pairs = b"".join(encode.pair(key, value, _TYPES.get(key)) for key, value in values.items())
    return parse_header(b"GGUF" + struct.pack("<IQQ", 3, 0, len(values)) + pairs, name=name)


def write_gguf(
    out: Path,
    source: GGUFHeader,
    tensors: Sequence[TensorOut],
    *,
    set: Mapping[str, Value] | None = None,
    advance: Callable[[int], None] = lambda n_bytes: None,
) -> None:
    """Write `source`'s metadata, byte for byte but for the keys of `set`, and these tensors.

    `advance` is told the bytes. `out` is a temporary name of the caller's; when this returns
    the bytes are on the disk, and on any failure the file is gone. Raises UsageProblem for
    a source that llama.cpp does not read, OSError.
    """
    head = new_header(source, [tensor.new for tensor in tensors], set=set or {})
    try:
        with out.open("wb") as file:
            file.write(head.raw)
            advance(len(head.raw))
            for tensor in tensors:
                written = _write(file, tensor, advance)
                file.write(bytes(-written % head.alignment))
            file.flush()
            os.fsync(file.fileno())
    except BaseException:  # Ctrl-C too: nothing half-written is left behind
        out.unlink(missing_ok=True)
        raise


def _write(file: Any, tensor: TensorOut, advance: Callable[[int], None]) -> int:
    written = 0
    chunk: Any  # bytes or an array: what has a buffer
    for chunk in tensor.chunks():
        view = memoryview(chunk).cast("B")
        file.write(view)
        written += view.nbytes
        advance(view.nbytes)
    assert written == tensor.size_bytes, (tensor.name, written, tensor.size_bytes)
    return written
