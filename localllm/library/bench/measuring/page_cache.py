"""Dropping a file from the system's page cache, and seeing whether it is gone."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Of a file's pages, at most so many may stay for a load to be called cold.
MAX_RESIDENT = 0.01


def evict(files: Sequence[Path]) -> str | None:
    """Drop `files` from the page cache; None when they are gone, else why they are not.

    Needs no rights: posix_fadvise drops pages that are written to the disk and that no process
    has mapped. Linux only (macOS's purge needs root, Windows has no such call).
    """
    if sys.platform != "linux" or not hasattr(os, "posix_fadvise"):
        return "this system cannot be asked to drop a file from its cache"
    for file in files:
        try:
            _drop(file)
            share = resident_share(file)
        except OSError as error:
            return f"{file.name} could not be dropped from the cache: {error.strerror}"
        if share > MAX_RESIDENT:
            return (
                f"{share:.0%} of {file.name} stayed in the cache: another process has it open, "
                "or its file system keeps it in memory"
            )
    return None


def _drop(file: Path) -> None:
    assert sys.platform == "linux"
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # pages not written yet are not dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def resident_share(file: Path) -> float:
    """The share of a file's pages that are in memory (mincore). Linux only."""
    assert sys.platform == "linux"
    size = file.stat().st_size
    if size == 0:
        return 0.0
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    pages = -(-size // mmap.PAGESIZE)
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    try:
        # Writable and private, so that ctypes may take its address; nothing is written.
        start = ctypes.c_char.from_buffer(mapped)
        flags = (ctypes.c_ubyte * pages)()
        try:
            if libc.mincore(ctypes.addressof(start), size, flags) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
        finally:
            del start
        return sum(flag & 1 for flag in bytes(flags)) / pages
    finally:
        mapped.close()
