"""ggml's quantized blocks made into numbers by torch, on whatever device they lie.

On the CPU ggml's own code does this (`engine.ggml_types`); on a GPU the bytes stay there, and
these run there. Layouts are those of ggml-quants.c (`dequantize_row_*`); the tests hold every
one of them against ggml's. Shifts and masks are by plain numbers: a tensor of them would be sent
to the device each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor

# kvalues_iq4nl of ggml-common.h
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def dequantize(packed: Tensor, type_name: str, n_per_row: int) -> Tensor:
    """Rows of bytes [n, bytes a row] as float32 [n, n_per_row], on the same device.

    `type_name` as ggml spells it, in any case. Raises KeyError for a type that is not in
    `TYPES`.
    """
    n = packed.shape[0]
    name = type_name.lower()
    if name in _PLAIN:
        return packed.contiguous().view(_PLAIN[name]).float()
    block_bytes, unpack = _BLOCKS[name]
    return unpack(packed.reshape(-1, block_bytes)).reshape(n, n_per_row)


def _half(blocks: Tensor, at: int) -> Tensor:
    """The float16 at byte `at` of each block, as float32 [blocks, 1]."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(quants: Tensor) -> Tensor:
    """Low halves of the bytes [n, ..., k], then high halves: [n, ..., 2, k]."""
    return torch.stack((quants & 15, quants >> 4), dim=-2)


def _bits(quants: Tensor, step: int, mask: int) -> Tensor:
    """Every `step` bits of the bytes [n, ..., k], lowest first: [n, ..., 8 / step, k]."""
    return torch.stack([(quants >> shift) & mask for shift in range(0, 8, step)], dim=-2)


def _q4_0(blocks: Tensor) -> Tensor:
    quants = _nibbles(blocks[:, 2:]).reshape(-1, 32).to(torch.int8) - 8
    return _half(blocks, 0) * quants


def _q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]).reshape(-1, 32) + _half(blocks, 2)


def _fifth(blocks: Tensor, at: int) -> Tensor:
    """The fifth bits of 32 numbers, in the four bytes at `at`, where they count: [blocks, 32]."""
    high = blocks[:, at : at + 4].unsqueeze(-1)
    return torch.cat([(high >> shift) & 1 for shift in range(8)], dim=-1).reshape(-1, 32) << 4


def _q5_0(blocks: Tensor) -> Tensor:
    quants = _nibbles(blocks[:, 6:]).reshape(-1, 32) | _fifth(blocks, 2)
    return _half(blocks, 0) * (quants.to(torch.int8) - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    quants = _nibbles(blocks[:, 8:]).reshape(-1, 32) | _fifth(blocks, 4)
    return _half(blocks, 0) * quants + _half(blocks, 2)


def _q8_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * blocks[:, 2:].contiguous().view(torch.int8)


def _q2_k(blocks: Tensor) -> Tensor:
    scales = blocks[:, :16]
    quants = _bits(blocks[:, 16:80].reshape(-1, 2, 32), 2, 3).reshape(-1, 16, 16)
    factor = (_half(blocks, 80) * (scales & 15)).unsqueeze(-1)
    return factor * quants - (_half(blocks, 82) * (scales >> 4)).unsqueeze(-1)


def _q3_k(blocks: Tensor) -> Tensor:
    packed = blocks[:, 96:108]
    low = _nibbles(packed[:, :8]).reshape(-1, 16)
    high = _bits(packed[:, 8:], 2, 3).reshape(-1, 16)
    scales = (low | (high << 4)).to(torch.int8) - 32
    quants = _bits(blocks[:, 32:96].reshape(-1, 2, 32), 2, 3).reshape(-1, 16, 16)
    missing = (_bits(blocks[:, :32], 1, 1) ^ 1).reshape(-1, 16, 16) << 2
    return (_half(blocks, 108) * scales).unsqueeze(-1) * (
        quants.to(torch.int8) - missing.to(torch.int8)
    )


def _six_bits(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minimums of the eight parts of a block, from their 12 bytes: [blocks, 8] each."""
    d, m, both = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat((d & 63, (both & 15) | ((d >> 2) & 48)), dim=1)
    return scales, torch.cat((m & 63, (both >> 4) | ((m >> 2) & 48)), dim=1)


def _q4_k(blocks: Tensor) -> Tensor:
    scales, least = _six_bits(blocks[:, 4:16])
    quants = _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    factor = (_half(blocks, 0) * scales).unsqueeze(-1)
    return factor * quants - (_half(blocks, 2) * least).unsqueeze(-1)


def _q5_k(blocks: Tensor) -> Tensor:
    scales, least = _six_bits(blocks[:, 4:16])
    quants = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    quants = quants | (_bits(blocks[:, 16:48], 1, 1) << 4)
    factor = (_half(blocks, 0) * scales).unsqueeze(-1)
    return factor * quants - (_half(blocks, 2) * least).unsqueeze(-1)


def _q6_k(blocks: Tensor) -> Tensor:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 16, 16)
    high = _bits(blocks[:, 128:192].reshape(-1, 2, 32), 2, 3).reshape(-1, 16, 16)
    scales = blocks[:, 192:208].contiguous().view(torch.int8)
    quants = (low | (high << 4)).to(torch.int8) - 32
    return (_half(blocks, 208) * scales).unsqueeze(-1) * quants


@cache
def _table(device: torch.device) -> Tensor:
    return torch.tensor(_IQ4, dtype=torch.float32, device=device)


def _looked_up(quants: Tensor) -> Tensor:
    """What the four bits of IQ4 stand for."""
    found = _table(quants.device).index_select(0, quants.reshape(-1).int())
    return found.reshape(quants.shape)


def _iq4_nl(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _looked_up(_nibbles(blocks[:, 2:]).reshape(-1, 32))


def _iq4_xs(blocks: Tensor) -> Tensor:
    low = torch.stack((blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4), dim=-1).reshape(-1, 8)
    two = blocks[:, 2:4].unsqueeze(-1)
    high = torch.cat([(two >> shift) & 3 for shift in range(0, 8, 2)], dim=-1).reshape(-1, 8)
    scales = (low | (high << 4)).to(torch.int8) - 32
    quants = _looked_up(_nibbles(blocks[:, 8:].reshape(-1, 8, 16)).reshape(-1, 8, 32))
    return (_half(blocks, 0) * scales).unsqueeze(-1) * quants


_PLAIN: Mapping[str, torch.dtype] = {
    "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16,
}  # fmt: skip
_BLOCKS: Mapping[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "q4_0": (18, _q4_0), "q4_1": (20, _q4_1), "q5_0": (22, _q5_0), "q5_1": (24, _q5_1),
    "q8_0": (34, _q8_0), "q2_k": (84, _q2_k), "q3_k": (110, _q3_k), "q4_k": (144, _q4_k),
    "q5_k": (176, _q5_k), "q6_k": (210, _q6_k), "iq4_nl": (18, _iq4_nl), "iq4_xs": (136, _iq4_xs),
}  # fmt: skip
