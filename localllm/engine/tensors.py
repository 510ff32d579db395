"""ggml_tensor as an eval hook sees it: its name, operation, sources and numbers.

The binding has no such struct and ggml no functions for most of its fields, so the layout of
ggml.h stands here. It is checked once against a tensor that ggml itself makes: a build with
another layout is refused and not misread.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

from localllm.engine import native
from localllm.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GGML_TYPE_F32 = 0
GGML_TYPE_I32 = 26
OP_NONE = 0

_MAX_SRC, _MAX_NAME = 10, 64


class Tensor(ctypes.Structure):
    """`Tensor.from_address(address)` of the address that a hook is called with.

    `ne` are the lengths of the four dimensions, the contiguous one first; `nb` their strides in
    bytes. Valid while the hook runs.
    """

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _MAX_SRC),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * _MAX_NAME),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


def weight_name(raw: bytes) -> str:
    """`blk.0.attn_k.weight` of `CUDA0#blk.0.attn_k.weight#0`: a copy that the scheduler made
    is named after its device (filter_tensor_name in llama.cpp's imatrix.cpp)."""
    parts = raw.decode("utf-8", "replace").split("#", 2)
    return parts[1] if len(parts) > 1 else parts[0]


def op_number(name: str) -> int:
    """The number of an operation in this build, by the name that ggml gives it."""
    return _op_numbers()[name]


@cache
def _op_numbers() -> dict[str, int]:
    name_of = native.ggml("ggml_op_name", ctypes.c_char_p, ctypes.c_int)
    # Past the last operation lies foreign memory: GGML_OP_NONE to MUL_MAT_ID are the first 40.
    return {(name_of(number) or b"").decode(): number for number in range(40)}


def read(address: int) -> NDArray[np.float32]:
    """An f32 tensor's numbers as [ne3, ne2, ne1, ne0], however its rows lie.

    On the host this is a view of the tensor's own memory, which the next node may overwrite;
    from a device it is a copy. Raises EngineError for other types.
    """
    import numpy as np

    return _read(address, np.dtype(np.float32), GGML_TYPE_F32)  # type: ignore[no-any-return]


def read_ids(address: int) -> NDArray[np.int32]:
    """An i32 tensor's numbers, a copy, in the same shape."""
    import numpy as np

    return np.array(_read(address, np.dtype(np.int32), GGML_TYPE_I32))


def _read(address: int, kind: Any, ggml_type: int) -> Any:
    import numpy as np

    tensor = Tensor.from_address(address)
    if tensor.type != ggml_type or tensor.nb[0] != kind.itemsize:
        raise EngineError(f"the activations {tensor.name.decode(errors='replace')!r} are not f32")
    n_bytes = int(_functions().n_bytes(address))
    if tensor.buffer and _functions().is_host(tensor.buffer):
        memory: Any = (ctypes.c_char * n_bytes).from_address(tensor.data)
    else:
        memory = bytearray(n_bytes)
        _functions().get(address, (ctypes.c_char * n_bytes).from_buffer(memory), 0, n_bytes)
    return np.ndarray(tuple(tensor.ne)[::-1], kind, memory, 0, tuple(tensor.nb)[::-1])


class _Functions:
    """What of ggml's own libraries is called for each tensor."""

    def __init__(self) -> None:
        self.n_bytes = native.ggml("ggml_nbytes", ctypes.c_size_t, ctypes.c_void_p)
        self.is_host = native.ggml("ggml_backend_buffer_is_host", ctypes.c_bool, ctypes.c_void_p)
        self.get = native.ggml(
            "ggml_backend_tensor_get", None,
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t,
        )  # fmt: skip


@cache
def _functions() -> _Functions:
    return _Functions()


class _InitParams(ctypes.Structure):
    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


@cache
def check_layout() -> None:
    """Raise EngineError if this build's ggml_tensor is laid out differently."""
    init = native.ggml("ggml_init", ctypes.c_void_p, _InitParams)
    free = native.ggml("ggml_free", None, ctypes.c_void_p)
    new = native.ggml(
        "ggml_new_tensor_3d", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int,
        ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
    )  # fmt: skip
    name = native.ggml("ggml_set_name", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    multiply = native.ggml("ggml_mul_mat", ctypes.c_void_p, *[ctypes.c_void_p] * 3)
    size = native.ggml("ggml_tensor_overhead", ctypes.c_size_t)() * 8
    context = init(_InitParams(size, None, True))
    try:
        a, b = new(context, 0, 7, 5, 3), new(context, 0, 7, 11, 3)
        product = multiply(context, a, b)
        name(product, b"a product")
        seen = Tensor.from_address(product)
        found = (tuple(seen.ne), tuple(seen.nb), seen.op, seen.src[0], seen.src[1], seen.name)
        if found != (
            (5, 11, 3, 1), (4, 20, 220, 660), op_number("MUL_MAT"), a, b, b"a product",
        ):  # fmt: skip
            raise EngineError(
                "this build of llama.cpp lays its tensors out in a way that is not known here",
                "pip install 'llama-cpp-python>=0.3.36,<0.4'",
            )
    finally:
        free(context)
