"""Importance matrix files against ones that llama.cpp's own llama-imatrix wrote.

tests/imatrix/fixtures holds them: made by `llama-imatrix -c 128 -t 1 --no-ppl` from text.txt
with the tiny models of `tests.imatrix.models`.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localllm.errors import DamagedFile, DiskFull, FileGone, LocalLLMError, UsageProblem
from localllm.formats.imatrix import (
    Entry,
    Imatrix,
    check_writable,
    merged,
    read_imatrix,
    write_imatrix,
)

FIXTURES = Path(__file__).parents[1] / "imatrix" / "fixtures"


def entry(squares: list[float], counts: list[int]) -> Entry:
    return Entry(np.array(squares, np.float32), np.array(counts, np.int64))


@pytest.mark.parametrize("name", ["llama", "moe"])
def test_what_llama_imatrix_wrote_is_written_again_byte_for_byte(name: str, tmp_path: Path) -> None:
    original = FIXTURES / f"{name}.imatrix.gguf"
    read = read_imatrix(original)
    write_imatrix(tmp_path / "again.gguf", read)
    assert (tmp_path / "again.gguf").read_bytes() == original.read_bytes()
    assert read.chunk_size == 128
    assert read.datasets == ("text.txt",)
    assert not read.legacy


def test_gguf_reads_what_we_write(tmp_path: Path) -> None:
    """By the reference reader of the format: shapes, types, keys."""
    import gguf

    path = tmp_path / "m.gguf"
    facts = {"model": "org/m:Q8_0", "text_sha256": "ab"}
    entries = {"blk.0.x.weight": entry([1, 2, 3, 4, 5, 6], [3, 0]), "a": entry([7], [9])}
    write_imatrix(path, Imatrix(entries, ("t.txt", "ü.txt"), 5, 512, facts))
    reader = gguf.GGUFReader(path)
    tensors = {t.name: t for t in reader.tensors}
    assert list(tensors) == [
        "a.in_sum2", "a.counts", "blk.0.x.weight.in_sum2", "blk.0.x.weight.counts",
    ]  # fmt: skip
    assert list(tensors["blk.0.x.weight.in_sum2"].shape) == [3, 2]
    assert list(tensors["blk.0.x.weight.counts"].shape) == [1, 2]
    assert tensors["blk.0.x.weight.in_sum2"].data.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["t.txt", "ü.txt"]
    assert reader.fields["imatrix.chunk_count"].types == [gguf.GGUFValueType.UINT32]
    assert reader.fields["localllm.imatrix.model"].contents() == "org/m:Q8_0"
    assert read_imatrix(path).facts == facts


@pytest.mark.parametrize("name", ["llama", "moe"])
def test_the_old_format_holds_the_same_means(name: str) -> None:
    new = read_imatrix(FIXTURES / f"{name}.imatrix.gguf")
    old = read_imatrix(FIXTURES / f"{name}.imatrix.dat", chunk_size=128)
    assert old.legacy
    assert set(old.entries) == set(new.entries)
    assert old.datasets == new.datasets
    assert old.chunk_count == new.chunk_count
    for tensor, e in new.entries.items():
        means = e.squares.reshape(e.counts.size, -1) / e.counts[:, None]
        o = old.entries[tensor]
        assert np.allclose(o.squares / o.counts[0], means.ravel(), rtol=1e-6)


def test_merging_adds_sums_and_counts() -> None:
    a = Imatrix({"x": entry([1, 2, 3, 4], [2, 0])}, ("a",), 3, 512, {"model": "m", "tokens": "10"})
    b = Imatrix({"x": entry([5, 6, 7, 8], [1, 7])}, ("b",), 4, 512, {"model": "m", "tokens": "20"})
    total = merged({"A": a, "B": b})
    assert total.entries["x"].squares.tolist() == [6, 8, 10, 12]
    assert total.entries["x"].counts.tolist() == [3, 7]
    assert (total.datasets, total.chunk_count) == (("a", "b"), 7)
    assert total.facts == {"model": "m", "tokens": "30"}


def test_one_count_of_an_old_file_counts_for_every_expert() -> None:
    a = Imatrix({"x": entry([1, 2, 3, 4], [5])})
    b = Imatrix({"x": entry([1, 1, 1, 1], [1, 2])})
    assert merged({"A": a, "B": b}).entries["x"].counts.tolist() == [6, 7]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Imatrix({"x": entry([1, 2, 3], [1])}), "x has 2 values in one and 3"),
        (Imatrix({"y": entry([1, 2], [1])}), "B has no x"),
        (Imatrix({"x": entry([1, 2], [1]), "y": entry([1], [1])}), "A has no y"),
        (Imatrix({"x": entry([1, 2], [1])}, facts={"model_sha256": "2", "model": "n"}), "model m"),
    ],
)
def test_different_models_are_not_merged(other: Imatrix, says: str) -> None:
    ours = Imatrix({"x": entry([1, 2], [1])}, facts={"model_sha256": "1", "model": "m"})
    with pytest.raises(UsageProblem, match=says):
        merged({"A": ours, "B": other})


@pytest.mark.parametrize("name", ["llama.imatrix.gguf", "moe.imatrix.gguf", "moe.imatrix.dat"])
def test_cut_off_anywhere_is_damage(name: str, tmp_path: Path) -> None:
    whole = (FIXTURES / name).read_bytes()
    cut = tmp_path / name
    for size in (0, 3, 4, 24, 100, len(whole) // 2, len(whole) - 40):
        cut.write_bytes(whole[:size])
        with pytest.raises(DamagedFile):
            read_imatrix(cut)


def test_what_is_no_matrix(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match="no importance matrix but a model"):
        read_imatrix(tiny_gguf)
    with pytest.raises(FileGone):
        read_imatrix(tmp_path / "none.gguf")
    with pytest.raises(DamagedFile, match="folder"):
        read_imatrix(tmp_path)
    text = tmp_path / "prose.dat"
    text.write_text("a text that is long enough to be read as numbers, and is none")
    with pytest.raises(DamagedFile):
        read_imatrix(text)
    bomb = tmp_path / "bomb.dat"  # claims a name of two gigabytes
    bomb.write_bytes(struct.pack("<ii", 1, 2**31 - 1) + b"x")
    with pytest.raises(DamagedFile):
        read_imatrix(bomb)


def test_numbers_that_are_none_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    good = Imatrix({"x": entry([1, 2], [1])})
    write_imatrix(path, replace(good, entries={"x": entry([1, float("nan")], [1])}))
    with pytest.raises(DamagedFile, match="x holds numbers that are none"):
        read_imatrix(path)


def test_calls_of_zero_in_an_old_file_mean_means(tmp_path: Path) -> None:
    """As llama-quantize takes them."""
    path = tmp_path / "old.dat"
    path.write_bytes(struct.pack("<ii1siiff", 1, 1, b"x", 0, 2, 3.0, 4.0))
    read = read_imatrix(path, chunk_size=10).entries["x"]
    assert (read.squares / read.counts[0]).tolist() == [3, 4]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    good = Imatrix({"x": entry([1, 2], [1])})
    for path in (tmp_path / "no" / "m.gguf", tmp_path):
        with pytest.raises(LocalLLMError):
            check_writable(path)
        with pytest.raises(LocalLLMError):
            write_imatrix(path, good)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="a small file system is mounted")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        path = small / "m.gguf"
        write_imatrix(path, Imatrix({"x": entry([1, 2], [1])}))
        before = path.read_bytes()
        with pytest.raises(DiskFull, match="no space left"):
            write_imatrix(path, Imatrix({"x": entry([1.0] * 100_000, [1])}))
        assert path.read_bytes() == before
        assert list(small.iterdir()) == [path]
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.skipif(os.name != "posix", reason="pipes of Unix")
def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for attempt in (check_writable, lambda at: write_imatrix(at, Imatrix({"a": entry([7], [9])}))):
        with pytest.raises(LocalLLMError, match="it is a device or a pipe"):
            attempt(pipe)
    assert pipe.is_fifo()
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]
