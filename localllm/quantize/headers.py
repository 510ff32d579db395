"""The exact bytes that llama.cpp will write before the tensors, from the source and the plan.

llama.cpp copies the source's metadata, sets two keys, then the overrides (a key that is set goes
to the end); tensors follow, each padded to 32 bytes (llama_model_quantize_impl,
gguf_write_to_buf). It writes the header last: known before, the file can be hashed while it is
written.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from localllm.formats.gguf.edit import Encoder
from localllm.formats.gguf.rewrite import SPLIT_KEYS, NewHeader, NewTensor, laid_out
from localllm.formats.gguf.types import GGML_TYPES, ValueType

if TYPE_CHECKING:
    from localllm.engine.quantize.quantize import TensorPlan
    from localllm.formats.gguf import GGUFModel, Metadata

_ALIGNMENT = 32  # GGUF_DEFAULT_ALIGNMENT: llama.cpp's quantizer knows no other
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
_TYPES = {kind.name.lower(): kind for kind in GGML_TYPES.values()}
_Pairs = dict[str, bytes]


def written_headers(
    source: GGUFModel,
    tensors: Sequence[TensorPlan],
    metadata: Mapping[str, int | float | bool | str],
    file_type: int,
    *,
    pruned: int = 0,
    shard_of: Sequence[int] | None = None,
) -> tuple[NewHeader, ...]:
    """The header of each file written. `tensors` as planned, in order; `metadata` the overrides;
    `file_type` a llama_ftype; `pruned` layers are left out.

    `shard_of` (with keep_split) says which shard each tensor goes to.
    """
    encode = Encoder("<", 3)
    keys = _keys(encode, source, metadata, file_type, pruned)
    shards = [0] * len(tensors) if shard_of is None else list(shard_of)
    n_files = max(shards, default=0) + 1
    headers = []
    for number in range(n_files):
        own = dict(keys) if number == 0 else {}
        if n_files > 1:
            values = (ValueType.U16, number), (ValueType.U16, n_files), (ValueType.I32, len(shards))
            for key, (kind, value) in zip(SPLIT_KEYS, values, strict=True):
                _set(own, encode, key, kind, value)
        mine = [
            NewTensor(t.name, tuple(t.shape), _TYPES[t.to_type.lower()])
            for t, shard in zip(tensors, shards, strict=True)
            if shard == number
        ]
        start = b"GGUF" + struct.pack("<IQQ", 3, len(mine), len(own))
        headers.append(laid_out(start + b"".join(own.values()), mine, encode, _ALIGNMENT))
    return tuple(headers)


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
    encode: Encoder,
    source: GGUFModel,
    overrides: Mapping[str, int | float | bool | str],
    file_type: int,
    pruned: int,
) -> _Pairs:
    """Each key of the result with its pair, in order."""
    pairs = {k: _copied(encode, source.metadata, k) for k in source.metadata if k not in SPLIT_KEYS}
    _set(pairs, encode, "general.quantization_version", ValueType.U32, _QUANTIZATION_VERSION)
    _set(pairs, encode, "general.file_type", ValueType.U32, file_type)
    for key, value in overrides.items():
        _set(pairs, encode, key, *_override(value))
    if pruned:
        key = f"{source.architecture or ''}.block_count"
        left = source.u32(key, pruned) - pruned
        _set(pairs, encode, key, ValueType.U32, left)
    return pairs


def _set(pairs: _Pairs, encode: Encoder, key: str, kind: ValueType, value: object) -> None:
    """As gguf_set_val does: what was there goes, the new value comes last."""
    pairs.pop(key, None)
    assert isinstance(value, str | bool | int | float)
    pairs[key] = encode.text(key) + encode.number(kind) + encode.scalar(kind, value)


def _override(value: int | float | bool | str) -> tuple[ValueType, int | float | bool | str]:
    if isinstance(value, str):
        return ValueType.STRING, value
    if isinstance(value, bool):
        return ValueType.BOOL, value
    # "Setting type to UINT32" (llama-quant.cpp), of the absolute value
    return (
        (ValueType.U32, abs(value) & 0xFFFFFFFF)
        if isinstance(value, int)
        else (ValueType.F32, value)
    )


def _copied(encode: Encoder, source: Metadata, key: str) -> bytes:
    info, raw = source.info(key), source.raw(key)
    kind = info.type if info.element_type is None else info.element_type
    # C strings on the way: what follows a NUL is lost
    if kind is ValueType.STRING and source.after_nul_bytes(key):
        raw = b"".join(encode.count.pack(len(text)) + text for text in _c_strings(raw))
    head = encode.text(key) + encode.number(info.type)
    if info.element_type is not None:
        head += encode.number(info.element_type) + encode.count.pack(info.length)
    return head + raw


def _c_strings(raw: bytes) -> Iterator[bytes]:
    """Strings with their lengths before them, each up to its first NUL."""
    at = 0
    while at < len(raw):
        start = at + 8
        at = start + struct.unpack_from("<Q", raw, at)[0]
        yield raw[start:at].split(b"\0", 1)[0]
