"""Lying, cut and malicious headers: a DamagedFile each, in bounded time and memory."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import pytest

from localllm.errors import DamagedFile, ExitCode, FileGone
from localllm.formats import NeedMoreBytes, parse_header, read_header
from localllm.formats.gguf import HEADER_LIMIT_BYTES
from tests.formats.corpus import good, hostile
from tests.support.gguf_writer import Arr, T, header_bytes

HOSTILE = hostile()


def test_the_good_file_of_the_corpus_parses() -> None:
    assert list(parse_header(good()).tensors) == ["a.weight", "b.bias"]


@pytest.mark.parametrize("lie", HOSTILE)
def test_a_lying_header_is_one_clear_error(lie: str, tmp_path: Path) -> None:
    content, names = HOSTILE[lie]
    path = tmp_path / "liar.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        began = time.perf_counter()
        with pytest.raises(DamagedFile) as caught:
            read_header(path)
        took_s = time.perf_counter() - began
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.exit_code == ExitCode.DAMAGED
    assert caught.value.message.startswith("liar.gguf: ")
    assert "\n" not in caught.value.message and len(caught.value.message) < 300
    assert names in caught.value.message or (lie == "empty" and "empty" in caught.value.message)
    assert caught.value.hint
    assert took_s < 1
    assert peak < 1_000_000 + 20 * len(content)


@pytest.mark.parametrize("lie", HOSTILE)
def test_a_lying_prefix_is_damage_or_asks_for_little(lie: str) -> None:
    """A remote file that claims to be large must not make us download it."""
    content, _ = HOSTILE[lie]
    try:
        parse_header(content, total_size=10**12)
    except DamagedFile:
        return
    except NeedMoreBytes as more:
        assert more.at_least <= HEADER_LIMIT_BYTES


def test_every_cut_of_a_good_file_is_damage() -> None:
    whole = good()
    header = parse_header(whole)
    needed = header.data_offset + 4 * 144 + 7 * 4  # Q4_K has 144 bytes a block of 256
    for end in range(needed):
        with pytest.raises(DamagedFile):
            parse_header(whole[:end])
    assert len(parse_header(whole[:needed]).tensors) == 2


def test_every_prefix_of_a_good_header_asks_for_bytes_that_exist() -> None:
    whole = good()
    complete = len(parse_header(whole).raw)
    for end in range(complete):
        with pytest.raises(NeedMoreBytes) as caught:
            parse_header(whole[:end], total_size=len(whole))
        assert end < caught.value.at_least <= complete
    assert parse_header(whole[:complete], total_size=len(whole)).n_params == 256 * 4 + 7


def test_a_vocabulary_that_ends_in_the_middle_of_a_string() -> None:
    tokens = Arr("str", [f"token {i}" for i in range(1000)])
    whole = header_bytes({"tokenizer.ggml.tokens": tokens}, pad=False)
    for end in range(len(whole) - 200, len(whole)):
        with pytest.raises(DamagedFile):
            parse_header(whole[:end])
        with pytest.raises(NeedMoreBytes):
            parse_header(whole[:end], total_size=len(whole))


def _empty_strings(n: int) -> bytes:
    """An array of `n` empty strings, after which a promised key is not there."""
    head = b"GGUF" + struct.pack("<IQQQ", 3, 0, 2, 1) + b"k" + struct.pack("<IIQ", 9, 8, n)
    return head + bytes(8 * n)


def test_the_longest_hop_takes_bounded_time() -> None:
    """16 million empty strings, as many as a header may hold."""
    content = _empty_strings(HEADER_LIMIT_BYTES // 8 - 64)
    began = time.process_time()
    with pytest.raises(DamagedFile):
        parse_header(content)
    assert time.process_time() - began < 20  # 1.2 s where this was written


def test_hopping_over_strings_takes_no_memory() -> None:
    content = _empty_strings(100_000)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedFile):
            parse_header(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_a_header_larger_than_any_real_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.gguf"
    with path.open("wb") as file:  # one string of 256 MiB, all there
        file.write(
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IQ", 8, 1 << 28)
        )
        file.truncate((1 << 28) + 1000)
    with pytest.raises(DamagedFile, match="larger than"):
        read_header(path)


def test_claimed_tensors_cost_nothing_before_they_are_there() -> None:
    content = b"GGUF" + struct.pack("<IQQ", 3, 250_000, 0)
    tracemalloc.start()
    try:
        with pytest.raises(NeedMoreBytes) as caught:
            parse_header(content, total_size=10**10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert caught.value.at_least <= len(content) + 250_000 * 25


def test_the_last_tensor_needs_no_padding_behind_it() -> None:
    raw = header_bytes({}, [T("a", (7,))]) + bytes(28)
    assert parse_header(raw).tensors["a"].size_bytes == 28


def test_an_empty_file_and_a_missing_one(tmp_path: Path) -> None:
    empty = tmp_path / "empty.gguf"
    empty.touch()
    with pytest.raises(DamagedFile, match=r"empty\.gguf: the file is empty"):
        read_header(empty)
    with pytest.raises(FileGone, match=r"gone\.gguf"):
        read_header(tmp_path / "gone.gguf")


def test_a_folder_is_an_os_error_that_main_words(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        read_header(tmp_path)
