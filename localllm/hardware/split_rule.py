"""llama.cpp's layer split, to the bit.

`n_gpu_layers` counts slots from the end, so n_layer + 1 offloads everything and 1 only the
output layer. The offloaded slots are dealt out by the cumulative, normalized `tensor_split`:
slot k of m goes to the first device whose share ends after k / m. Whole numbers of slots as
`tensor_split` therefore say exactly where each slot goes.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate


def assign(
    n_layer: int,
    n_gpu_layers: int,
    tensor_split: Sequence[float] | None,
    free_bytes: Sequence[int],
) -> tuple[int | None, ...]:
    """The device of each slot (n_layer of them and the output), None for the host.

    A negative `n_gpu_layers` is all, as llama.h says; `tensor_split` None or all zero goes by
    `free_bytes`, one entry for each device.

    llama.cpp's arithmetic in single precision, from `llama_model::load_tensors`.
    """
    n_slots = n_layer + 1
    if not free_bytes or n_gpu_layers == 0:
        return (None,) * n_slots
    offloaded = n_slots if n_gpu_layers < 0 else min(n_gpu_layers, n_slots)
    start = n_slots - offloaded
    given = [_f32(x) for x in (tensor_split or ())][: len(free_bytes)]
    given += [0.0] * (len(free_bytes) - len(given))
    splits = given if any(given) else [_f32(float(x)) for x in free_bytes]
    ends = list(accumulate(splits, lambda a, b: _f32(a + b)))
    ends = [_f32(end / ends[-1]) for end in ends] if ends[-1] else ends

    def device(slot: int) -> int | None:
        if slot < start:
            return None
        return min(bisect_right(ends, _f32((slot - start) / offloaded)), len(ends) - 1)

    return tuple(device(slot) for slot in range(n_slots))


def _f32(value: float) -> float:
    """Rounded to single precision, as llama.cpp's `float` holds it."""
    return float(struct.unpack("f", struct.pack("f", value))[0])
