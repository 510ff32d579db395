"""A file on its way to the disk while it is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from localllm.library.writeback import WriteBack

MIB = 1 << 20


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of files at each fsync."""
    seen: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        seen.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


def test_what_was_written_is_flushed_now_and_then(tmp_path: Path, flushed: list[int]) -> None:
    path = tmp_path / "made"
    with WriteBack(path) as behind:
        behind.wrote(200 * MIB)  # not there yet: nothing to flush, and no error
        path.write_bytes(b"1234")
        behind.wrote(100 * MIB)
        behind.wait()
    assert flushed in ([], [4])
    flushed.clear()
    with WriteBack(path) as behind:
        behind.wrote(127 * MIB)
        assert flushed == []
        behind.begin()
        behind.wait()
    assert flushed == [4]


def test_what_a_flush_met_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "made"
    path.write_bytes(b"1234")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    behind = WriteBack(path)
    behind.begin()
    with pytest.raises(OSError, match="No space left"):
        behind.wait()
