"""Which weights the CPU keeps a second copy of, in a layout its kernels like better.

llama.cpp puts matrices that it multiplies by on the CPU into an extra buffer type (CPU_REPACK,
AMX) where that supports their type and shape. It matters for memory where one tensor has two
uses: a tied embedding is read row by row from the file's bytes and multiplied by from the copy.
"""

from __future__ import annotations

import ctypes

from localllm.engine import native

_P, _I64 = ctypes.c_void_p, ctypes.c_int64
_F32, _I32 = 0, 26  # ggml types
_DEVICE_TYPE_CPU = 0
_BUFFER_OFFSET = 8  # of ggml_tensor.buffer, behind the 32-bit type


class _InitParams(ctypes.Structure):
    """struct ggml_init_params"""

    _fields_ = [
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    ]


def repacks(ggml_type: int, n_in: int, n_out: int, n_expert: int = 0) -> bool:
    """Whether the CPU multiplies by such a matrix from a copy in its own layout (CPU_REPACK,
    AMX) and not from the file's bytes.

    Asked as llama.cpp's loader asks (`weight_buft_supported`): by a multiplication with a
    weight in the extra buffer type. `n_expert` > 0 is a stack of experts.
    """
    return any(
        _supports(device, buffer_type, ggml_type, (n_in, n_out, n_expert))
        for device, buffer_type in _extra_buffer_types()
    )


def _extra_buffer_types() -> list[tuple[int, int]]:
    """(device, buffer type) pairs of the CPU besides its plain memory."""
    device = native.ggml("ggml_backend_dev_by_type", _P, ctypes.c_int)(_DEVICE_TYPE_CPU)
    registry = native.ggml("ggml_backend_dev_backend_reg", _P, _P)(device)
    find = native.ggml("ggml_backend_reg_get_proc_address", _P, _P, ctypes.c_char_p)
    address = find(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return []
    listed = ctypes.CFUNCTYPE(ctypes.POINTER(_P), _P)(address)(device)
    found: list[tuple[int, int]] = []
    while listed and listed[len(found)]:
        found.append((device, listed[len(found)]))
    return found


def _supports(device: int, buffer_type: int, kind: int, shape: tuple[int, int, int]) -> bool:
    n_in, n_out, n_expert = shape
    tensor = native.ggml("ggml_new_tensor_4d", _P, _P, ctypes.c_int, *[_I64] * 4)
    memory = native.ggml("ggml_init", _P, _InitParams)(_InitParams(16384, None, True))
    weight = tensor(memory, kind, n_in, n_out, max(n_expert, 1), 1)
    if n_expert:
        rows = tensor(memory, _F32, n_in, n_expert, 512, 1)
        ids = tensor(memory, _I32, n_expert, 512, 1, 1)
        multiply = native.ggml("ggml_mul_mat_id", _P, _P, _P, _P, _P)
        operation = multiply(memory, weight, rows, ids)
    else:
        rows = tensor(memory, _F32, n_in, 512, 1, 1)
        operation = native.ggml("ggml_mul_mat", _P, _P, _P, _P)(memory, weight, rows)
    allocate = native.ggml("ggml_backend_buft_alloc_buffer", _P, _P, ctypes.c_size_t)
    buffer = allocate(buffer_type, 0)  # empty: only its type is looked at
    _P.from_address(weight + _BUFFER_OFFSET).value = buffer
    supports = native.ggml("ggml_backend_dev_supports_op", ctypes.c_bool, _P, _P)
    answer = bool(supports(device, operation))
    native.ggml("ggml_backend_buffer_free", None, _P)(buffer)
    native.ggml("ggml_free", None, _P)(memory)
    return answer
