"""The exact size of the file that llama.cpp will write, from the source's header and the plan.

llama.cpp copies the source's metadata, sets two keys, then the overrides; tensors follow,
each padded to 32 bytes (llama_model_quantize_impl, gguf_write_to_buf).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from localllm.formats.gguf.types import VALUE_CODES, ValueType

if TYPE_CHECKING:
    from localllm.engine.quantize.quantize import TensorPlan
    from localllm.formats.gguf import GGUFModel, Metadata

_ALIGNMENT = 32  # GGUF_DEFAULT_ALIGNMENT: llama.cpp's quantizer knows no other
_PREAMBLE = 4 + 4 + 8 + 8  # magic, version, number of tensors, of keys
_SPLIT = {"split.no": 2, "split.count": 2, "split.tensors.count": 4}
_WIDTH = {ValueType.U8: 1, ValueType.I8: 1, ValueType.BOOL: 1, ValueType.U16: 2, ValueType.I16: 2}
_WIDTH |= {ValueType.U64: 8, ValueType.I64: 8, ValueType.F64: 8}


def file_sizes(
    source: GGUFModel,
    tensors: Sequence[TensorPlan],
    metadata: Mapping[str, int | float | bool | str],
    *,
    pruned: bool,
    shard_of: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Bytes of each file written. `tensors` as planned, in order; `metadata` the overrides.

    `shard_of` (with keep_split) says which shard each tensor goes to.
    """
    keys = _keys(source.metadata, metadata, source.architecture or "", pruned)
    shards = [0] * len(tensors) if shard_of is None else list(shard_of)
    n_files = max(shards, default=0) + 1
    sizes = []
    for number in range(n_files):
        mine = [t for t, shard in zip(tensors, shards, strict=True) if shard == number]
        own = dict(keys) if number == 0 else {}
        if n_files > 1:
            own |= {key: _pair(key, width) for key, width in _SPLIT.items()}
        head = _PREAMBLE + sum(own.values()) + sum(_info(t) for t in mine)
        sizes.append(_padded(head) + sum(_padded(t.after_bytes) for t in mine))
    return tuple(sizes)


def shard_order(source: GGUFModel, pruned: Collection[int]) -> tuple[int, ...]:
    """The shard of each tensor that is kept, in the order in which keep_split writes them."""
    numbers = []
    for number, shard in enumerate(source.shards):
        for tensor in sorted(shard.tensors.values(), key=lambda t: t.offset):
            layer = re.match(r"blk\.(\d+)\.", tensor.name)
            if layer is None or int(layer[1]) not in pruned:
                numbers.append(number)
    return tuple(numbers)


def _keys(
    source: Metadata, overrides: Mapping[str, int | float | bool | str], arch: str, pruned: bool
) -> dict[str, int]:
    """Each key of the result with the bytes that its pair takes."""
    found = {key: _copied(source, key) for key in source if key not in _SPLIT}
    for key in ("general.quantization_version", "general.file_type"):
        found[key] = _pair(key, 4)
    for key, value in overrides.items():
        found[key] = _pair(key, _override(value))
    if pruned:
        key = f"{arch}.block_count"
        found[key] = _pair(key, 4)
    return found


def _copied(source: Metadata, key: str) -> int:
    info = source.info(key)
    kind = info.type if info.element_type is None else info.element_type
    if kind is ValueType.STRING:  # C strings on the way: what follows a NUL is lost
        width = info.size_bytes - source.after_nul_bytes(key)
    else:
        width = info.length * _width(kind)
    return _pair(key, width if info.element_type is None else 4 + 8 + width)


def _override(value: int | float | bool | str) -> int:
    if isinstance(value, str):
        return 8 + len(value.encode())
    return 1 if isinstance(value, bool) else 4  # u32 or f32


def _width(kind: ValueType) -> int:
    assert kind in VALUE_CODES, kind
    return _WIDTH.get(kind, 4)


def _pair(key: str, value_bytes: int) -> int:
    return 8 + len(key.encode()) + 4 + value_bytes


def _info(tensor: TensorPlan) -> int:
    return 8 + len(tensor.name.encode()) + 4 + 8 * len(tensor.shape) + 4 + 8


def _padded(size: int) -> int:
    return size + -size % _ALIGNMENT
