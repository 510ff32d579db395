"""Copies with other metadata: everything else to the byte."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from localllm.errors import DamagedFile, FileGone, UsageProblem
from localllm.formats import copy_with_metadata, parse_header, read_header
from localllm.formats.gguf import ValueType
from tests.formats.peer import assert_equal_to_peer
from tests.support.gguf_writer import F32, I32, U8, U32, U64, Arr, T, Val, header_bytes
from tests.support.tiny_models import tiny_llama

LINEAGE: dict[str, Any] = {
    "localllm.parent": "hf:org/モデル@abc:F16",
    "localllm.parameters": ["--type", "Q4_K_M", ""],
    "localllm.seed": 2**40,
    "localllm.negative": -3,
    "localllm.loss": 0.25,
    "localllm.pure": True,
    "localllm.layers": [1, 2, 3],
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "source.gguf")


def _data(path: Path) -> bytes:
    return path.read_bytes()[read_header(path).data_offset :]


def test_new_keys_are_there_and_all_else_is_as_it_was(source: Path, tmp_path: Path) -> None:
    copy_with_metadata(source, tmp_path / "copy.gguf", set=LINEAGE)
    before, after = read_header(source), read_header(tmp_path / "copy.gguf")
    added = {k: tuple(v) if isinstance(v, list) else v for k, v in LINEAGE.items()}
    assert dict(after.metadata) == dict(before.metadata) | added
    assert after.tensors == before.tensors
    assert _data(tmp_path / "copy.gguf") == _data(source)
    assert_equal_to_peer(after, tmp_path / "copy.gguf")


def test_the_gguf_package_reads_the_copy(source: Path, tmp_path: Path) -> None:
    import gguf

    copy_with_metadata(source, tmp_path / "copy.gguf", set=LINEAGE)
    peer = gguf.GGUFReader(tmp_path / "copy.gguf")
    original = gguf.GGUFReader(source)
    for key, value in LINEAGE.items():
        assert peer.fields[key].contents() == value
    for theirs, ours in zip(original.tensors, peer.tensors, strict=True):
        assert theirs.name == ours.name
        assert theirs.data.tobytes() == ours.data.tobytes()


def test_llama_cpp_says_the_same_with_the_copy(source: Path, tmp_path: Path) -> None:
    import llama_cpp

    copy_with_metadata(source, tmp_path / "copy.gguf", set={**LINEAGE, "general.name": "another"})
    answers = []
    for path in (source, tmp_path / "copy.gguf"):
        model = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, verbose=False)
        done = model.create_completion("hello world", max_tokens=16, temperature=0)
        answers.append(done["choices"][0]["text"])
        names = model.metadata["general.name"]
    assert answers[0] == answers[1]
    assert names == "another"


def test_a_replaced_key_keeps_its_place_and_its_number_type(tmp_path: Path) -> None:
    keys = {"a": U8(1), "b": U64(2), "c": I32(3), "d": Val("f64", 4.0), "e": F32(5.0),
            "f": "text", "g": Arr("u16", [1]), "h": U32(8)}  # fmt: skip
    (tmp_path / "s.gguf").write_bytes(header_bytes(keys))
    changed: dict[str, Any] = {"a": 9, "b": 9, "c": 9, "d": 9, "e": 9, "f": "other", "g": [7, 8]}
    copy_with_metadata(tmp_path / "s.gguf", tmp_path / "d.gguf", set=changed)
    after = read_header(tmp_path / "d.gguf").metadata
    assert list(after) == list(keys)
    assert dict(after) == {**changed, "g": (7, 8), "h": 8}
    kinds = [after.info(key).element_type or after.info(key).type for key in keys]
    assert [kind.name for kind in kinds] == [
        "U8",
        "U64",
        "I32",
        "F64",
        "F32",
        "STRING",
        "U16",
        "U32",
    ]


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        (0, "U32", 0), (2**32 - 1, "U32", 2**32 - 1), (2**32, "U64", 2**32), (-1, "I32", -1),
        (-(2**31) - 1, "I64", -(2**31) - 1), (1.5, "F32", 1.5), (1e300, "F64", 1e300),
        (float("inf"), "F32", float("inf")), (True, "BOOL", True), ("", "STRING", ""),
        ([], "STRING", ()), (["a"], "STRING", ("a",)), ([1, -1], "I32", (1, -1)),
        ([1, 0.5], "F32", (1.0, 0.5)), ([True], "BOOL", (True,)), ((1, 2), "U32", (1, 2)),
    ],
)  # fmt: skip
def test_the_type_of_a_new_value(value: Any, kind: str, read: Any, tmp_path: Path) -> None:
    (tmp_path / "s.gguf").write_bytes(header_bytes({}))
    copy_with_metadata(tmp_path / "s.gguf", tmp_path / "d.gguf", set={"k": value})
    after = read_header(tmp_path / "d.gguf").metadata
    info = after.info("k")
    assert (info.element_type or info.type) is ValueType[kind]
    assert after["k"] == read


def test_a_number_too_large_for_its_old_type_gets_a_wider_one(tmp_path: Path) -> None:
    (tmp_path / "s.gguf").write_bytes(header_bytes({"a": U8(1), "b": F32(1.0)}))
    copy_with_metadata(tmp_path / "s.gguf", tmp_path / "d.gguf", set={"a": 300, "b": 1e200})
    after = read_header(tmp_path / "d.gguf").metadata
    assert (after["a"], after.info("a").type.name) == (300, "U32")
    assert (after["b"], after.info("b").type.name) == (1e200, "F64")


@pytest.mark.parametrize("alignment", [8, 32, 4096])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_alignment_order_and_version_stay(
    version: int, order: str, alignment: int, tmp_path: Path
) -> None:
    tensors = [T("a", (5,)), T("b", (32, 3), "Q8_0")]
    raw = header_bytes({"x": 1}, tensors, version=version, order=order, alignment=alignment)
    data = bytes(i % 251 for i in range(alignment * 5 + 300))
    (tmp_path / "s.gguf").write_bytes(raw + data)
    copy_with_metadata(tmp_path / "s.gguf", tmp_path / "d.gguf", set={"note": "n" * 77, "x": 2})
    after = parse_header((tmp_path / "d.gguf").read_bytes())
    assert (after.version, after.big_endian, after.alignment) == (version, order == ">", alignment)
    assert after.data_offset % alignment == 0
    assert dict(after.metadata) == {"x": 2, "general.alignment": alignment, "note": "n" * 77}
    assert (tmp_path / "d.gguf").read_bytes()[after.data_offset :] == data


def test_keys_go_away(source: Path, tmp_path: Path) -> None:
    copy_with_metadata(
        source, tmp_path / "d.gguf", set={}, remove=["tokenizer.chat_template", "absent"]
    )
    before, after = read_header(source), read_header(tmp_path / "d.gguf")
    assert set(before.metadata) - set(after.metadata) == {"tokenizer.chat_template"}
    assert _data(tmp_path / "d.gguf") == _data(source)


def test_the_bytes_told_to_advance_are_the_files(source: Path, tmp_path: Path) -> None:
    told: list[int] = []
    copy_with_metadata(source, tmp_path / "d.gguf", set={"a": 1}, advance=told.append)
    assert sum(told) == (tmp_path / "d.gguf").stat().st_size


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    source = tmp_path / "s.gguf"
    with source.open("wb") as file:
        file.write(header_bytes({"a": 1}, [T("w", (1 << 26,), "I8")]))
        file.truncate(file.tell() + (1 << 26))
    tracemalloc.start()
    try:
        copy_with_metadata(source, tmp_path / "d.gguf", set={"a": 2})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * 1024 * 1024


def test_a_failure_leaves_no_file(source: Path, tmp_path: Path) -> None:
    def stop(n_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_with_metadata(source, tmp_path / "d.gguf", set={"a": 1}, advance=stop)
    assert not (tmp_path / "d.gguf").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"general.alignment": 64}, {"k": [1, "a"]}, {"k": [True, 1]}, {"k": 2**64},
        {"k": None}, {"": 1}, {"k" * 70_000: 1}, {"k": {"a": 1}}, {"k": [[1]]},
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_said(change: dict[str, Any], source: Path) -> None:
    target = source.with_name("d.gguf")
    with pytest.raises(UsageProblem):
        copy_with_metadata(source, target, set=change)
    assert not target.exists()


def test_a_file_onto_itself_a_damaged_one_and_a_missing_one(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    with pytest.raises(UsageProblem, match="onto itself"):
        copy_with_metadata(source, source, set={"a": 1})
    assert source.read_bytes() == before
    (tmp_path / "bad.gguf").write_bytes(before[:5000])
    with pytest.raises(DamagedFile):
        copy_with_metadata(tmp_path / "bad.gguf", tmp_path / "d.gguf", set={})
    with pytest.raises(FileGone):
        copy_with_metadata(tmp_path / "gone.gguf", tmp_path / "d.gguf", set={})
    assert not (tmp_path / "d.gguf").exists()


@pytest.mark.model
def test_a_real_vocabulary_is_copied_to_the_byte(real_gguf: Path, tmp_path: Path) -> None:
    copy_with_metadata(real_gguf, tmp_path / "d.gguf", set=LINEAGE)
    before, after = read_header(real_gguf), read_header(tmp_path / "d.gguf")
    for key in before.metadata:
        assert after.metadata.raw(key) == before.metadata.raw(key)
    assert after.tensors == before.tensors
    assert _data(tmp_path / "d.gguf") == _data(real_gguf)
