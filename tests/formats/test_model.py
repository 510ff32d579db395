"""Shards: their names, and reading them as one model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from localllm.errors import DamagedFile, FileGone
from localllm.formats import (
    ShardName,
    model_files,
    read_header,
    read_model,
    shard_family,
    shard_name,
)
from tests.support.gguf_writer import T, Val, write_sparse
from tests.support.tiny_models import llama_model, split, tiny_llama


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return split(llama_model, tmp_path, "big", n_shards=3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("big-00001-of-00005.gguf", ShardName("big", 1, 5, ".gguf")),
        ("a-b_Q4_K_M-00012-of-00012.gguf", ShardName("a-b_Q4_K_M", 12, 12, ".gguf")),
        ("model-00002-of-00003.safetensors", ShardName("model", 2, 3, ".safetensors")),
        ("x-00001-of-00002-00001-of-00003.gguf", ShardName("x-00001-of-00002", 1, 3, ".gguf")),
        ("big.gguf", None),
        ("big-00000-of-00005.gguf", None),
        ("big-00006-of-00005.gguf", None),
        ("big-1-of-5.gguf", None),
        ("big-00001-of-00005.gguf.part", None),
        ("big-00001-of-00005.bin", None),
    ],
)
def test_shard_names(name: str, expected: ShardName | None) -> None:
    assert shard_name(name) == expected
    if expected is not None:
        assert str(expected) == name


def test_a_family_from_any_of_its_names() -> None:
    family = ("q-00001-of-00003.gguf", "q-00002-of-00003.gguf", "q-00003-of-00003.gguf")
    assert all(shard_family(name) == family for name in family)
    assert shard_family("q.gguf") == ("q.gguf",)


def test_shards_are_llama_cpps_names() -> None:
    import ctypes

    import llama_cpp

    buffer = ctypes.create_string_buffer(200)
    llama_cpp.llama_split_path(buffer, len(buffer), b"/models/big", 1, 5)
    assert buffer.value.decode() == "/models/" + shard_family("big-00001-of-00005.gguf")[1]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_shard_stands_for_the_model(shards: list[Path], which: int, tmp_path: Path) -> None:
    whole = read_header(tiny_llama(tmp_path / "whole.gguf"))
    model = read_model(shards[which])
    assert list(model.tensors) == list(whole.tensors)
    assert (model.n_params, model.weights_bytes) == (whole.n_params, whole.weights_bytes)
    assert model.architecture == "llama" and model.kind == "model"
    assert model.u32("llama.block_count") == 2
    assert model.split is not None and (model.split.number, model.split.count) == (0, 3)


def test_shards_in_any_order(shards: list[Path]) -> None:
    model = read_model([shards[2], shards[0], shards[1]])
    assert [shard.name for shard in model.shards] == [path.name for path in shards]


def test_a_tensors_bytes_are_where_locate_says(shards: list[Path], tmp_path: Path) -> None:
    whole_path = tiny_llama(tmp_path / "whole.gguf")
    whole, model = read_model(whole_path), read_model(shards[0])
    content = [path.read_bytes() for path in shards]
    for name in whole.tensors:
        shard, offset, size = model.locate(name)
        _, at, _ = whole.locate(name)
        assert content[shard][offset : offset + size] == whole_path.read_bytes()[at : at + size]


def test_a_missing_shard_is_named_once(shards: list[Path]) -> None:
    shards[1].unlink()
    with pytest.raises(FileGone, match=r"^1 of 3 shards are missing: big-00002-of-00003\.gguf$"):
        read_model(shards[0])
    with pytest.raises(FileGone, match=r"1 of 3 shards are missing, the first is big-00002-of"):
        read_model([shards[0], shards[2]])


def test_a_split_under_names_that_do_not_tell(shards: list[Path], tmp_path: Path) -> None:
    renamed = tmp_path / "first.gguf"
    shutil.copy(shards[0], renamed)
    with pytest.raises(FileGone, match="2 of 3 shards are missing, the first is number 2"):
        read_model(renamed)


def test_shards_that_do_not_belong_together(shards: list[Path], tmp_path: Path) -> None:
    other = split(llama_model, tmp_path, "other", n_shards=2)
    alone = tiny_llama(tmp_path / "alone.gguf")
    with pytest.raises(DamagedFile, match=r"other-00001-of-00002\.gguf: a shard of 2"):
        read_model([shards[0], other[0], shards[2]])
    with pytest.raises(DamagedFile, match=r"alone\.gguf: it is no shard"):
        read_model([shards[0], shards[1], alone])
    with pytest.raises(DamagedFile, match="are both shard 1 of 3"):
        read_model([shards[0], shards[0], shards[1]])


def _shard(path: Path, number: int, count: int, total: int, *tensors: T) -> Path:
    keys = {"split.no": Val("u16", number), "split.count": Val("u16", count),
            "split.tensors.count": Val("i32", total)}  # fmt: skip
    return write_sparse(path, keys, tensors)


def test_a_split_that_lost_a_tensor_or_has_one_twice(tmp_path: Path) -> None:
    one = _shard(tmp_path / "a-00001-of-00002.gguf", 0, 2, 3, T("x", (4,)))
    two = _shard(tmp_path / "a-00002-of-00002.gguf", 1, 2, 3, T("y", (4,)))
    with pytest.raises(DamagedFile, match="has 2 tensors and should have 3"):
        read_model(one)
    _shard(two, 1, 2, 2, T("x", (4,)))
    with pytest.raises(DamagedFile, match="'x' is also in a-00001-of-00002"):
        read_model(one)


def test_a_shard_number_past_the_count(tmp_path: Path) -> None:
    path = _shard(tmp_path / "s.gguf", 7, 2, 1, T("x", (4,)))
    with pytest.raises(DamagedFile, match="no shard"):
        read_model(path)


def test_a_split_of_one_is_a_whole_model(tmp_path: Path) -> None:
    path = _shard(tmp_path / "s-00001-of-00001.gguf", 0, 1, 1, T("x", (4,)))
    assert read_model(path).split is None


def test_model_files(tmp_path: Path) -> None:
    assert model_files(tmp_path / "m.gguf") == (tmp_path / "m.gguf",)
    assert [p.name for p in model_files(tmp_path / "m-00002-of-00002.gguf")] == [
        "m-00001-of-00002.gguf",
        "m-00002-of-00002.gguf",
    ]
