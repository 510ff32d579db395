"""Whatever is written is read back; whatever is broken is a DamagedFile, soon."""

from __future__ import annotations

import string
import struct
import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.errors import DamagedFile
from localllm.formats import NeedMoreBytes, parse_header
from localllm.formats.gguf import GGUFHeader
from tests.support.gguf_writer import (
    GGML_TYPES,
    VALUE_TYPES,
    Arr,
    T,
    Val,
    data_bytes,
    header_bytes,
)

INTEGERS = {
    "u8": (0, 2**8 - 1), "i8": (-(2**7), 2**7 - 1), "u16": (0, 2**16 - 1),
    "i16": (-(2**15), 2**15 - 1), "u32": (0, 2**32 - 1), "i32": (-(2**31), 2**31 - 1),
    "u64": (0, 2**64 - 1), "i64": (-(2**63), 2**63 - 1),
}  # fmt: skip

texts = st.text(st.characters(codec="utf-8"), max_size=20)
keys = st.text(string.ascii_lowercase + "._é", min_size=1, max_size=30).filter(
    lambda key: key != "general.alignment"
)


def _of_kind(kind: str) -> st.SearchStrategy[Any]:
    if kind == "str":
        return texts
    if kind == "bool":
        return st.booleans()
    if kind == "f32":
        return st.floats(width=32, allow_nan=False)
    if kind == "f64":
        return st.floats(allow_nan=False)
    return st.integers(*INTEGERS[kind])


_kinds = st.sampled_from([kind for kind in VALUE_TYPES if kind != "arr"])
scalars = _kinds.flatmap(lambda kind: _of_kind(kind).map(lambda v: Val(kind, v)))
arrays = _kinds.flatmap(
    lambda kind: st.lists(_of_kind(kind), max_size=12).map(lambda v: Arr(kind, v))
)
metadata = st.dictionaries(keys, scalars | arrays, max_size=8)


@st.composite
def _tensors(draw: st.DrawFn) -> list[T]:
    names = draw(st.lists(st.text(string.ascii_letters + ".é", min_size=1, max_size=30),
                          max_size=6, unique=True))  # fmt: skip
    tensors = []
    for name in names:
        kind = draw(st.sampled_from(sorted(GGML_TYPES)))
        rest = draw(st.lists(st.integers(1, 4), max_size=3))
        row = draw(st.integers(1, 3)) * GGML_TYPES[kind][1]
        tensors.append(T(name, (row, *rest), kind))
    return tensors


@given(
    metadata=metadata,
    tensors=_tensors(),
    version=st.sampled_from([1, 2, 3]),
    order=st.sampled_from("<>"),
    alignment=st.sampled_from([None, 8, 32, 64, 4096]),
)
@settings(deadline=None, max_examples=150)
def test_what_is_written_is_read(
    metadata: dict[str, Any], tensors: list[T], version: int, order: str, alignment: int | None
) -> None:
    raw = header_bytes(metadata, tensors, version=version, order=order, alignment=alignment)
    content = raw + bytes(data_bytes(tensors, alignment or 32))
    header = parse_header(content)
    read = dict(header.metadata)
    if alignment is not None:
        assert read.pop("general.alignment") == alignment
    expected = {
        key: tuple(v.values) if isinstance(v, Arr) else v.value for key, v in metadata.items()
    }
    assert read == expected
    assert list(header.metadata)[: len(metadata)] == list(metadata)
    assert [(t.name, t.shape, t.type_name, t.size_bytes) for t in header.tensors.values()] == [
        (t.name, t.shape, t.type, t.size_bytes) for t in tensors
    ]
    assert header.data_offset == (len(raw) if tensors else len(header.raw))


@given(metadata=metadata, tensors=_tensors(), data=st.data())
@settings(deadline=None, max_examples=100)
def test_a_prefix_asks_for_more_and_the_whole_header_is_enough(
    metadata: dict[str, Any], tensors: list[T], data: st.DataObject
) -> None:
    raw = header_bytes(metadata, tensors)
    total = len(raw) + data_bytes(tensors)
    have, asked = data.draw(st.integers(0, len(raw))), 0
    while True:
        try:
            header = parse_header(raw[:have], total_size=total)
            break
        except NeedMoreBytes as more:
            assert have < more.at_least <= len(raw)
            have, asked = more.at_least, asked + 1
    assert len(header.raw) <= len(raw) and list(header.metadata) == list(metadata)


SEED = header_bytes(
    {
        "general.architecture": "llama",
        "general.alignment": Val("u32", 32),
        "llama.block_count": Val("u32", 1),
        "tokenizer.ggml.tokens": Arr("str", [f"t{i}" for i in range(40)]),
        "tokenizer.ggml.scores": Arr("f32", [float(i) for i in range(40)]),
        "flags": Arr("bool", [True, False]),
    },
    [T("token_embd.weight", (32, 40), "Q8_0"), T("blk.0.attn_norm.weight", (32,), "F32"),
     T("blk.0.ffn_up_exps.weight", (256, 2, 2), "IQ2_XS")],
)  # fmt: skip
SEED_FILE = SEED + bytes(4096)


def _use(header: GGUFHeader) -> None:
    """Everything a caller may ask of a header that parsed."""
    dict(header.metadata)
    assert header.weights_bytes + len(header.raw) <= len(SEED_FILE) + 64
    assert header.n_params >= 0 and header.kind
    try:
        assert header.file_type is None or header.file_type.name
        assert header.architecture is None or header.architecture is not None
        assert header.split is None or header.split.count > 1
    except DamagedFile:
        pass  # a key of another type than it should have


def _parses_or_is_damaged(content: bytes) -> None:
    began = time.perf_counter()
    try:
        header = parse_header(content)
    except DamagedFile as error:
        assert "\n" not in error.message
    else:
        _use(header)
    assert time.perf_counter() - began < 2


@given(st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), max_size=6))
@settings(deadline=None, max_examples=400)
def test_flipped_bytes(changes: list[tuple[int, int]]) -> None:
    content = bytearray(SEED_FILE)
    for at, value in changes:
        content[at] = value
    _parses_or_is_damaged(bytes(content))


INTERESTING = [0, 1, 2**8 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1,
               2**63, 2**64 - 8, 2**64 - 1]  # fmt: skip


@given(at=st.integers(4, len(SEED) - 8), value=st.sampled_from(INTERESTING))
@settings(deadline=None, max_examples=400)
def test_a_large_number_in_any_place(at: int, value: int) -> None:
    content = bytearray(SEED_FILE)
    struct.pack_into("<Q", content, at, value)
    _parses_or_is_damaged(bytes(content))


@given(start=st.integers(0, len(SEED)), n=st.integers(0, 64), insert=st.binary(max_size=64))
@settings(deadline=None, max_examples=200)
def test_bytes_cut_out_and_put_in(start: int, n: int, insert: bytes) -> None:
    _parses_or_is_damaged(SEED_FILE[:start] + insert + SEED_FILE[start + n :])


@given(st.binary(max_size=400))
@settings(deadline=None, max_examples=200)
def test_noise_behind_the_magic(noise: bytes) -> None:
    _parses_or_is_damaged(b"GGUF" + struct.pack("<IQQ", 3, 2, 2) + noise)
    _parses_or_is_damaged(noise)


def test_every_byte_of_the_header_set_to_every_extreme() -> None:
    for at in range(len(SEED)):
        for value in (0, 1, 127, 128, 255):
            content = bytearray(SEED_FILE)
            content[at] = value
            try:
                parse_header(bytes(content))
            except DamagedFile:
                continue
