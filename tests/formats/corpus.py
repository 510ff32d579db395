"""Headers that lie, made by hand: each with a word that the error about it must say."""

from __future__ import annotations

import struct

from tests.support.gguf_writer import U8, U32, Arr, T, Val, header_bytes

GOOD_KEYS = {"general.architecture": "llama", "llama.block_count": U32(2)}
GOOD_TENSORS = [T("a.weight", (256, 4), "Q4_K"), T("b.bias", (7,), "F32")]


def good() -> bytes:
    """A small whole file, tensor data included."""
    return _file(header_bytes(GOOD_KEYS, GOOD_TENSORS))


def hostile() -> dict[str, tuple[bytes, str]]:
    """Name of the lie -> (the file, what the error names)."""
    return {**_preambles(), **_values(), **_tensor_lies()}


def _file(header: bytes, data_bytes: int = 4096) -> bytes:
    return header + bytes(data_bytes)


def _preambles() -> dict[str, tuple[bytes, str]]:
    magic = b"GGUF" + struct.pack("<I", 3)
    huge = 2**63
    return {
        "empty": (b"", "cut short"),
        "three bytes": (b"GGU", "cut short"),
        "another magic": (b"GGML" + bytes(64), "not a GGUF file"),
        "a web page": (b"<!DOCTYPE html><html>" + bytes(64), "not a GGUF file"),
        "version 0": (b"GGUF" + bytes(64), "version 0"),
        "version 4": (b"GGUF" + struct.pack("<I", 4) + bytes(64), "version 4"),
        "version 4 big endian": (b"GGUF" + struct.pack(">I", 4) + bytes(64), "version 4"),
        "only the version": (magic, "cut short"),
        "2^63 tensors": (magic + struct.pack("<QQ", huge, 0) + bytes(64), f"{huge} tensors"),
        "2^64-1 keys": (magic + struct.pack("<QQ", 0, 2**64 - 1) + bytes(64), "keys"),
        "200,000 tensors in 100 bytes": (
            magic + struct.pack("<QQ", 200_000, 0) + bytes(76),
            "list of tensors",
        ),
        "200,000 keys in 100 bytes": (
            magic + struct.pack("<QQ", 0, 200_000) + bytes(76),
            "key 0",
        ),
        "more keys than told": (header_bytes(GOOD_KEYS, GOOD_TENSORS, n_kv=9), "key"),
        "fewer keys than told": (_file(header_bytes(GOOD_KEYS, GOOD_TENSORS, n_kv=1)), "tensor"),
        "more tensors than told": (
            _file(header_bytes(GOOD_KEYS, GOOD_TENSORS, n_tensors=90)),
            "tensor",
        ),
    }


def _pair(key: bytes, rest: bytes) -> bytes:
    """A file of one metadata pair, given as bytes, and room behind it."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    return _file(head + struct.pack("<Q", len(key)) + key + rest, 512)


def _values() -> dict[str, tuple[bytes, str]]:
    array = struct.pack("<II", 9, 8)  # an array of strings; its length follows
    numbers = struct.pack("<II", 9, 6)
    nested = b"".join(struct.pack("<IQ", 9, 1) for _ in range(10_000))
    return {
        "unknown value type": (_pair(b"k", struct.pack("<I", 13)), "value type 13"),
        "value type -1": (_pair(b"k", struct.pack("<i", -1)), "value type"),
        "unknown element type": (_pair(b"k", struct.pack("<IIQ", 9, 99, 1)), "value type 99"),
        "an empty key": (_pair(b"", struct.pack("<IB", 0, 1)), "0 bytes long"),
        "a key that is not UTF-8": (_pair(b"\xff\xfe", struct.pack("<IB", 0, 1)), "UTF-8"),
        "a key of 2^40 bytes": (
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**40) + bytes(64),
            "bytes long",
        ),
        "a string of 2^63 bytes": (_pair(b"k", struct.pack("<IQ", 8, 2**63)), "'k'"),
        "a string of 2^64-1 bytes": (_pair(b"k", struct.pack("<IQ", 8, 2**64 - 1)), "'k'"),
        "2^61 strings": (_pair(b"k", array + struct.pack("<Q", 2**61)), "'k'"),
        "a string past the end among others": (
            _pair(b"k", array + struct.pack("<QQQQ", 3, 0, 0, 2**62)),
            "'k'",
        ),
        "2^62 floats": (_pair(b"k", numbers + struct.pack("<Q", 2**62)), "'k'"),
        "an array of arrays": (
            header_bytes({"k": Arr("arr", [Arr("i32", [1, 2])])}),
            "array of arrays",
        ),
        "arrays 10,000 deep": (_pair(b"k", struct.pack("<I", 9) + nested), "array of arrays"),
        "a key of 60,000 line breaks, twice": (
            header_bytes([("\n" * 60_000, U32(1)), ("\n" * 60_000, U32(1))]),
            "twice",
        ),
        "a key twice": (header_bytes([("k", U32(1)), ("k", U32(1))]), "twice"),
        "alignment 0": (_file(_aligned(U32(0))), "alignment"),
        "alignment 33": (_file(_aligned(U32(33))), "alignment"),
        "alignment of another type": (_file(_aligned(Val("u64", 32))), "alignment"),
        "alignment as u8": (_file(_aligned(U8(32))), "alignment"),
        "alignment as text": (_file(_aligned(Val("str", "32"))), "alignment"),
        "alignment 2^31": (_file(_aligned(U32(2**31))), "and not at 2147483648"),
    }


def _aligned(alignment: Val) -> bytes:
    """A header with this general.alignment and tensors laid out as for 32."""
    raw = header_bytes({"general.alignmenX": alignment}, GOOD_TENSORS)
    return raw.replace(b"general.alignmenX", b"general.alignment")


def _tensor_lies() -> dict[str, tuple[bytes, str]]:
    def lie(*tensors: T, data: int = 4096, **header: object) -> bytes:
        return _file(header_bytes(GOOD_KEYS, tensors, **header), data)  # type: ignore[arg-type]

    big = 2**40
    return {
        "a tensor twice": (lie(T("a", (4,)), T("a", (4,))), "twice"),
        "5 dimensions": (lie(T("a", (1, 1, 1, 1, 1))), "5 dimensions"),
        "2^32-1 dimensions": (
            header_bytes({}, [T("a", (4,))]).replace(
                struct.pack("<IQ", 1, 4), struct.pack("<IQ", 2**32 - 1, 4)
            ),
            "dimensions",
        ),
        "a dimension of 0": (lie(T("a", (4, 0))), "dimension of 0"),
        "a negative dimension": (lie(T("a", (2**64 - 1,), "I8"), offsets=[0]), "elements"),
        "a product past 2^63": (lie(T("a", (big, big), "I8"), offsets=[0]), "elements"),
        "a product that wraps to 0": (
            lie(T("a", (2**32, 2**32), "I8"), offsets=[0]),
            "elements",
        ),
        "a product that wraps to 16": (
            lie(T("a", (2**32 + 4, 2**32, 2**32, 2**32), "I8"), offsets=[0]),
            "elements",
        ),
        "a tensor larger than the file": (lie(T("a", (big,), "I8"), offsets=[0]), "cut short"),
        "data cut short by a byte": (
            header_bytes(GOOD_KEYS, GOOD_TENSORS) + bytes(4 * 144 + 7 * 4 - 1),
            "cut short",
        ),
        "no data at all": (header_bytes(GOOD_KEYS, GOOD_TENSORS), "cut short"),
        "rows that are no whole blocks": (lie(T("a", (255,), "Q4_K"), offsets=[0]), "256"),
        "an offset off the alignment": (lie(T("a", (4,)), offsets=[8]), "starts at 8"),
        "an offset past the end": (lie(T("a", (4,)), offsets=[2**63]), "gap"),
        "tensors on top of each other": (
            lie(T("a", (64,)), T("b", (64,)), offsets=[0, 128]),
            "overlap",
        ),
        "a gap between tensors": (
            lie(T("a", (8,)), T("b", (8,)), offsets=[0, 64]),
            "leaves a gap",
        ),
        "tensors in another order": (
            lie(T("a", (8,)), T("b", (8,)), offsets=[32, 0]),
            "leaves a gap",
        ),
        "tensors at one place": (lie(T("a", (8,)), T("b", (8,)), offsets=[0, 0]), "overlap"),
        "an unknown tensor type": (_retyped(43), "ggml type 43"),
        "a removed tensor type": (_retyped(4), "ggml type 4"),
        "tensor type -1": (_retyped(2**32 - 1), "ggml type"),
        "an empty tensor name": (lie(T("", (4,))), "0 bytes long"),
        "a tensor name of 64 bytes": (lie(T("n" * 64, (4,))), "64 bytes long"),
        "a tensor name that is not UTF-8": (
            lie(T("na", (4,))).replace(b"na", b"\xff\xfe"),
            "UTF-8",
        ),
    }


def _retyped(number: int) -> bytes:
    raw = header_bytes(GOOD_KEYS, [T("q", (32,), "Q4_0")])
    at = raw.index(struct.pack("<IQI", 1, 32, 2))
    return _file(raw[: at + 12] + struct.pack("<I", number) + raw[at + 16 :])
