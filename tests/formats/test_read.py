"""Reading what is there: keys, tensors, totals, kinds, ranges."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from localllm import formats
from localllm.errors import DamagedFile
from localllm.formats import fetch_header, parse_header, read_header
from localllm.formats.gguf import ValueType
from tests.formats.peer import assert_equal_to_peer
from tests.support.gguf_writer import (
    F32,
    I32,
    U8,
    U32,
    U64,
    Arr,
    T,
    Val,
    header_bytes,
    write_sparse,
)
from tests.support.tiny_models import (
    llama_model,
    tiny_bert,
    tiny_gemma3,
    tiny_llama,
    tiny_lora,
    tiny_mamba,
    tiny_qwen2,
    tiny_qwen3moe,
)

ALL_KINDS: dict[str, Any] = {
    "text": "日本語 and a line\nbreak",
    "empty": "",
    "u8": U8(255),
    "i8": Val("i8", -128),
    "u16": Val("u16", 65535),
    "i16": Val("i16", -32768),
    "u32": U32(2**32 - 1),
    "i32": I32(-(2**31)),
    "u64": U64(2**64 - 1),
    "i64": Val("i64", -(2**63)),
    "f32": F32(0.5),
    "f64": Val("f64", 1e300),
    "true": True,
    "false": False,
    "strings": Arr("str", ["a", "", "ü"]),
    "numbers": Arr("i32", [1, -2, 3]),
    "halves": Arr("f32", [0.5, -0.25]),
    "flags": Arr("bool", [True, False]),
    "nothing": Arr("str", []),
}


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_value_type_in_every_version_and_byte_order(version: int, order: str) -> None:
    tensors = [T("w", (64, 3), "Q8_0"), T("b", (5,))]
    raw = header_bytes(ALL_KINDS, tensors, version=version, order=order, alignment=64)
    header = parse_header(raw + bytes(1024))
    assert (header.version, header.big_endian, header.alignment) == (version, order == ">", 64)
    expected = {
        "text": "日本語 and a line\nbreak", "empty": "", "u8": 255, "i8": -128, "u16": 65535,
        "i16": -32768, "u32": 4294967295, "i32": -2147483648, "u64": 18446744073709551615,
        "i64": -9223372036854775808, "f32": 0.5, "f64": 1e300, "true": True, "false": False,
        "strings": ("a", "", "ü"), "numbers": (1, -2, 3), "halves": (0.5, -0.25),
        "flags": (True, False), "nothing": (), "general.alignment": 64,
    }  # fmt: skip
    assert dict(header.metadata) == expected
    assert header.metadata["true"] is True and header.metadata["u8"] is not True
    assert header.data_offset == len(raw)
    assert [(t.name, t.shape, t.type_name, t.offset, t.size_bytes, t.n_elements)
            for t in header.tensors.values()] == [
        ("w", (64, 3), "Q8_0", 0, 204, 192),
        ("b", (5,), "F32", 256, 20, 5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [tiny_llama, tiny_qwen2, tiny_qwen3moe, tiny_gemma3, tiny_mamba, tiny_bert, tiny_lora],
)
def test_equal_to_gguf_pys_reader(make: Any, tmp_path: Path) -> None:
    path = make(tmp_path / "model.gguf")
    assert_equal_to_peer(read_header(path), path)


def test_a_file_of_gguf_pys_writer_reads_the_same(tmp_path: Path) -> None:
    import gguf
    import numpy as np

    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(3)
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_array("some.words", ["x", "yé"])
    writer.add_custom_alignment(128)
    writer.add_tensor("m", np.ones((4, 256), dtype=np.float16))
    writer.add_tensor("v", np.ones(3, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert_equal_to_peer(read_header(path), path)
    assert read_header(path).tensors["m"].shape == (256, 4)


@pytest.mark.model
def test_equal_to_gguf_pys_reader_on_a_real_vocabulary(real_gguf: Path) -> None:
    header = read_header(real_gguf)
    assert_equal_to_peer(header, real_gguf)
    assert len(header.metadata["tokenizer.ggml.tokens"]) == 262144  # type: ignore[arg-type]
    assert header.file_type is not None
    assert (header.file_type.name, header.file_type.label) == ("Q4_K_M", "Q4_K - Medium")
    assert header.n_params == 268_098_176


def test_values_are_described_without_decoding_them() -> None:
    header = parse_header(header_bytes(ALL_KINDS))
    info = header.metadata.info("strings")
    assert (info.type, info.element_type, info.length) == (ValueType.ARRAY, ValueType.STRING, 3)
    assert info.size_bytes == 3 * 8 + 1 + 0 + 2
    assert header.metadata.info("f64").type is ValueType.F64
    assert header.metadata.head("strings", 2) == ("a", "")
    assert header.metadata.raw("numbers") == b"\x01\0\0\0\xfe\xff\xff\xff\x03\0\0\0"


def test_text_that_is_not_utf8_is_shown_not_refused() -> None:
    raw = header_bytes({"general.name": b"caf\xe9", "v": Arr("str", [b"\xff", b"ok"])})
    header = parse_header(raw)
    assert header.text("general.name") == "caf\ufffd"
    assert header.metadata["v"] == ("\ufffd", "ok")
    assert header.metadata.raw("general.name") == b"\x04\0\0\0\0\0\0\0caf\xe9"


def test_typed_getters() -> None:
    header = parse_header(header_bytes({"general.architecture": "llama", **ALL_KINDS}))
    assert header.u32("u8") == 255 and header.u32("u32") == 2**32 - 1
    assert header.u32("absent") is None and header.u32("absent", 7) == 7
    assert header.u64("u64") == 2**64 - 1
    assert header.f32("f32") == 0.5 and header.f32("u8") == 255.0
    assert header.flag("true") is True and header.flag("absent", True) is True
    assert header.text("text") == "日本語 and a line\nbreak"


@pytest.mark.parametrize(
    ("getter", "key"),
    [
        ("u32", "u64"), ("u32", "i32"), ("u32", "true"), ("u32", "text"), ("u32", "numbers"),
        ("f32", "text"), ("flag", "u8"), ("text", "u8"), ("text", "strings"), ("u64", "i64"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_damage(getter: str, key: str) -> None:
    header = parse_header(header_bytes(ALL_KINDS), name="odd.gguf")
    with pytest.raises(DamagedFile, match=rf"^odd\.gguf: {key} should be"):
        getattr(header, getter)(key)


def test_values_of_the_architecture() -> None:
    keys = {
        "general.architecture": "gemma3n",
        "gemma3n.block_count": U32(3),
        "gemma3n.attention.head_count_kv": Arr("i32", [4, 2, 1]),
        "gemma3n.attention.head_count": U32(8),
        "gemma3n.short": Arr("u32", [1]),
        "gemma3n.windows": Arr("bool", [True, False, True]),
        "gemma3n.negative": Arr("i32", [1, -1, 1]),
        "gemma3n.words": Arr("str", ["a", "b", "c"]),
    }
    header = parse_header(header_bytes(keys))
    assert header.arch_u32("block_count") == 3
    assert header.arch_value("block_count") == 3
    assert header.arch_value("absent") is None
    assert header.arch_per_layer("attention.head_count_kv", 3) == (4, 2, 1)
    assert header.arch_per_layer("attention.head_count", 3) == (8, 8, 8)
    assert header.arch_per_layer("absent", 2, default=5) == (5, 5)
    assert header.arch_per_layer("windows", 3) == (1, 0, 1)
    for odd in ("negative", "words"):
        with pytest.raises(DamagedFile, match=f"gemma3n.{odd} should be"):
            header.arch_per_layer(odd, 3)
    with pytest.raises(DamagedFile, match="1 numbers for 3 layers"):
        header.arch_per_layer("short", 3)
    with pytest.raises(DamagedFile, match=r"general\.architecture"):
        parse_header(header_bytes({})).arch_value("block_count")


def test_totals() -> None:
    tensors = [T("e", (256, 10), "Q6_K"), T("a", (256, 4), "Q4_K"), T("b", (256, 4), "Q4_K"),
               T("n", (256,), "F32")]  # fmt: skip
    header = parse_header(header_bytes({"general.file_type": U32(15)}, tensors) + bytes(8192))
    assert header.n_params == 2560 + 1024 + 1024 + 256
    assert header.weights_bytes == 10 * 210 + 8 * 144 + 1024
    assert header.bits_per_weight == pytest.approx(8 * 4276 / 4864)
    assert {n: (t.n_tensors, t.size_bytes) for n, t in header.types.items()} == {
        "Q6_K": (1, 2100), "Q4_K": (2, 1152), "F32": (1, 1024),
    }  # fmt: skip
    assert list(header.types) == ["Q6_K", "Q4_K", "F32"]
    assert header.file_type is not None and header.file_type.name == "Q4_K_M"


def test_file_type_is_guessed_from_most_bytes_where_it_is_missing() -> None:
    tensors = [T("w", (256, 40), "Q5_K"), *(T(f"n{i}", (4,)) for i in range(9))]
    header = parse_header(header_bytes({}, tensors) + bytes(16384))
    assert header.file_type is not None
    assert header.file_type.name == "Q5_K_M" and header.file_type.guessed
    assert parse_header(header_bytes({})).file_type is None


@pytest.mark.parametrize(
    ("keys", "tensors", "kind"),
    [
        ({"general.architecture": "llama"}, [T("w", (4,))], "model"),
        ({"general.architecture": "llama", "general.type": "model"}, [T("w", (4,))], "model"),
        ({"general.type": "adapter", "general.architecture": "llama"}, [T("w", (4,))], "adapter"),
        ({"general.architecture": "clip"}, [T("w", (4,))], "mmproj"),
        ({"general.type": "mmproj", "general.architecture": "clip"}, [T("w", (4,))], "mmproj"),
        ({"general.type": "imatrix"}, [T("w.in_sum2", (4,))], "imatrix"),
        ({"general.architecture": "controlvector"}, [T("direction.1", (4,))], "control_vector"),
        ({"general.architecture": "llama", "tokenizer.ggml.model": "gpt2"}, [], "vocab"),
        ({"general.architecture": "llama", "tokenizer.ggml.model": "gpt2",
          "split.count": Val("u16", 3), "split.no": Val("u16", 0)}, [], "model"),
    ],
)  # fmt: skip
def test_what_a_file_is_for(keys: dict[str, Any], tensors: list[T], kind: str) -> None:
    assert parse_header(header_bytes(keys, tensors) + bytes(256)).kind == kind


def test_tiny_lora_is_an_adapter(tmp_path: Path) -> None:
    assert read_header(tiny_lora(tmp_path / "lora.gguf")).kind == "adapter"


@pytest.mark.parametrize("n_tokens", [10, 100_000])
def test_a_remote_header_is_read_in_few_ranges_and_no_more_than_twice_over(n_tokens: int) -> None:
    tokens = Arr("str", [f"some token {i}" for i in range(n_tokens)])
    tensors = [T(f"blk.{i}.w", (1024, 1024)) for i in range(500)]
    header = header_bytes({"tokenizer.ggml.tokens": tokens}, tensors)
    total = len(header) + 500 * 4 * 1024 * 1024
    asked: list[tuple[int, int]] = []

    def read_range(start: int, length: int) -> bytes:
        asked.append((start, length))
        assert start + length <= total
        data = header[start : start + length]
        return data + bytes(length - len(data))

    fetched = fetch_header(read_range, total, name="remote.gguf")
    assert fetched.raw == header[: len(fetched.raw)]
    assert len(fetched.metadata["tokenizer.ggml.tokens"]) == n_tokens  # type: ignore[arg-type]
    assert fetched.total_size == total
    starts = [start for start, _ in asked]
    assert starts == sorted(starts) and len(asked) <= 4
    assert sum(n for _, n in asked) <= max(2 * len(header), 1024 * 1024)


def test_a_remote_file_smaller_than_the_first_range(tmp_path: Path) -> None:
    content = tiny_llama(tmp_path / "t.gguf", n_layer=1, dtype="Q4_0").read_bytes()
    header = fetch_header(lambda start, n: content[start : start + n], None)
    assert header.architecture == "llama"
    with pytest.raises(DamagedFile, match="cut short"):
        fetch_header(lambda start, n: content[start : min(start + n, 4000)], None)
    with pytest.raises(DamagedFile, match="cut short"):
        fetch_header(lambda start, n: content[start : min(start + n, 4000)], len(content))


def test_a_sparse_copy_has_the_same_header_and_size_and_no_weights(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "t.gguf")
    header = read_header(source)
    header.write_sparse(tmp_path / "sparse.gguf")
    assert (tmp_path / "sparse.gguf").stat().st_size == source.stat().st_size
    again = read_header(tmp_path / "sparse.gguf")
    assert again.raw == header.raw and again.tensors == header.tensors


def test_a_header_at_a_real_size_reads_from_a_sparse_file(tmp_path: Path) -> None:
    tensors = [T(f"blk.{i}.ffn_up.weight", (8192, 28672), "Q4_K") for i in range(80)]
    path = write_sparse(tmp_path / "70b.gguf", {"general.architecture": "llama"}, tensors)
    header = read_header(path)
    assert header.n_params == 80 * 8192 * 28672
    assert header.weights_bytes == 80 * 8192 * 28672 // 256 * 144


def test_the_file_is_closed_after_reading(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "t.gguf")
    header = read_header(path)
    path.unlink()  # Windows refuses this while a map is open
    assert header.text("general.name") == "tiny-llama"


def test_the_same_seed_gives_the_same_model(tmp_path: Path) -> None:
    one, two, other = (llama_model(seed=s) for s in (1, 1, 2))
    assert one.tensors == two.tensors
    assert one.tensors != other.tensors


@pytest.mark.parametrize("name", formats.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(formats, name).__name__ == name
    assert name in dir(formats)


def _loaded(statement: str, names: tuple[str, ...]) -> str:
    code = f"import sys; {statement}; print([m for m in {names!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_reading_headers_brings_in_nothing_heavy() -> None:
    heavy = ("numpy", "gguf", "llama_cpp", "huggingface_hub", "rich", "typer")
    assert _loaded("from localllm.formats import read_model, read_safetensors", heavy) == "[]"


def test_a_shards_name_does_not_load_the_readers() -> None:
    readers = ("localllm.formats.gguf", "localllm.formats.safetensors", "json")
    assert _loaded("from localllm.formats import shard_name", readers) == "[]"
