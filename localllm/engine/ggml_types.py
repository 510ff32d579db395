"""Rows of numbers in and out of ggml's types, by ggml's own code.

The same functions that llama.cpp quantizes and computes with, so what comes out is what a model
file would hold, bit for bit.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localllm.engine import native
from localllm.errors import EngineError, UsageProblem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class _Traits(ctypes.Structure):
    """struct ggml_type_traits of ggml.h."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class RowType:
    """One of ggml's types: `block_elements` numbers in `block_bytes` bytes.

    A row must be a whole number of blocks long. Safe to use from several threads.
    """

    id: int
    name: str
    block_elements: int
    block_bytes: int
    needs_importance: bool

    def row_bytes(self, n_per_row: int) -> int:
        """Bytes of a row. Raises UsageProblem where its length is no multiple of the block."""
        if n_per_row % self.block_elements:
            raise UsageProblem(
                f"{self.name} needs rows of a multiple of {self.block_elements}, not of {n_per_row}"
            )
        return n_per_row // self.block_elements * self.block_bytes

    def quantize(
        self, rows: NDArray[np.float32], importance: NDArray[np.float32] | None = None
    ) -> NDArray[np.uint8]:
        """`rows` (n_rows, n_per_row) as bytes (n_rows, row_bytes).

        `importance` (n_per_row) weighs the columns: the mean of the squared activations that
        meet them. Raises EngineError where the type needs one and there is none.
        """
        import numpy as np

        if self.needs_importance and importance is None:
            raise EngineError(f"{self.name} needs an importance matrix")
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        n_rows, n_per_row = rows.shape
        out = np.empty((n_rows, self.row_bytes(n_per_row)), dtype=np.uint8)
        weights = None
        if importance is not None:
            weights = np.ascontiguousarray(importance, dtype=np.float32)
            if weights.shape != (n_per_row,):
                raise UsageProblem(f"{weights.size} weights for rows of {n_per_row}")
        written = _quantize_chunk()(
            self.id, rows.ctypes.data, out.ctypes.data, 0, n_rows, n_per_row,
            None if weights is None else weights.ctypes.data,
        )  # fmt: skip
        if written != out.nbytes:
            raise EngineError(f"ggml made {written} bytes of {self.name}, not {out.nbytes}")
        return out

    def dequantize(
        self,
        data: NDArray[np.uint8],
        n_per_row: int,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Bytes (n_rows, row_bytes) as numbers (n_rows, n_per_row), in `out` where it is given.

        ggml's code runs without the interpreter's lock, so threads may share the rows.
        """
        import numpy as np

        if data.ndim != 2 or data.shape[1] != self.row_bytes(n_per_row):
            raise UsageProblem(f"{data.shape} bytes are no rows of {n_per_row} {self.name}")
        data = np.ascontiguousarray(data)
        shape = (data.shape[0], n_per_row)
        if out is None:
            out = np.empty(shape, dtype=np.float32)
        elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise UsageProblem(f"{out.shape} of {out.dtype} cannot hold {shape} numbers")
        if self.name == "f32":
            out[...] = data.view(np.float32)
            return out
        to_float = _traits(self.id).to_float
        # Rows lie one after the other in whole blocks, so they are one long row.
        to_float(data.ctypes.data, out.ctypes.data, out.size)
        return out


def row_type(name: str) -> RowType:
    """The type of this name as ggml spells it ("q4_K", "iq3_xxs", "f16"), in any case.

    Raises UsageProblem for what this build cannot convert both ways.
    """
    found = row_types().get(name.lower())
    if found is None:
        raise UsageProblem(f"{name!r} is no tensor type", f"one of {', '.join(row_types())}")
    return found


_types: dict[str, RowType] = {}


def row_types() -> dict[str, RowType]:
    """All types of this build that hold weights, by their name in small letters."""
    if not _types:
        _types.update(_read_types())
    return _types


def _read_types() -> dict[str, RowType]:
    needs = native.ggml("ggml_quantize_requires_imatrix", ctypes.c_bool, ctypes.c_int)
    found = {}
    for number in range(native.lib().GGML_TYPE_COUNT):  # beyond it ggml asserts
        traits = _traits(number)
        name = (traits.type_name or b"").decode()
        floating = name in ("f32", "f16", "bf16")
        if name and (floating or (traits.is_quantized and bool(traits.to_float))):
            found[name.lower()] = RowType(
                number, name, traits.blck_size, traits.type_size, bool(needs(number))
            )
    for name in ("q8_1", "q8_k"):  # of activations: nothing writes weights in them
        found.pop(name, None)
    return found


def _traits(number: int) -> Any:
    function = native.ggml("ggml_get_type_traits", ctypes.POINTER(_Traits), ctypes.c_int)
    return function(number).contents


def _quantize_chunk() -> Any:
    return native.ggml(
        "ggml_quantize_chunk", ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
        ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    )  # fmt: skip
