"""A local file to its partial: cloned, linked or copied, and hashed."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from localllm.errors import DamagedFile
from localllm.sources.base import Advance, Fetched, journal_of
from localllm.sources.disk import disk_problem, require_room

_BLOCK_BYTES = 8 << 20
_FICLONE = 0x40049409  # Linux: _IOW(0x94, 9, int), see ioctl_ficlone(2)


def bring(source: Path, size_bytes: int, partial: Path, advance: Advance) -> Fetched:
    """Make `partial` the content of `source`. `advance` is called as bytes are hashed.

    A clone first (reflink: no room, no time, and later changes of the original do not reach
    it), then a hard link (no room, but one file under two names), then a copy. Raises DiskFull,
    HomeUnwritable, and DamagedFile where the file changes meanwhile.
    """
    real = source.resolve()  # a hard link to a symbolic link would be one more of these
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        # Never written through: what lies there may be a link to someone's file.
        partial.unlink(missing_ok=True)
        journal_of(partial).unlink(missing_ok=True)
        if _cloned(real, partial) or _linked(real, partial):
            digest = _digest(_blocks(partial, advance))
        else:
            require_room(partial, size_bytes)
            digest = _copied(real, partial, advance)
        if partial.stat().st_size != size_bytes:
            partial.unlink()
            raise DamagedFile(f"{source} changed while it was read", "pull it again")
    except OSError as e:
        raise disk_problem(e, partial, size_bytes) from e
    return Fetched(size_bytes, digest, resumed_bytes=0, verified=False)


def _cloned(source: Path, target: Path) -> bool:
    """A copy-on-write clone, where the file system has them (btrfs, xfs, APFS, bcachefs)."""
    if sys.platform == "darwin":
        libc = ctypes.CDLL(None)
        return bool(libc.clonefile(os.fsencode(source), os.fsencode(target), 0) == 0)
    if sys.platform != "linux":
        return False
    import fcntl

    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            pass  # another file system, or one without clones
        else:
            return True
    target.unlink()
    return False


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:
        return False  # another file system, one without links, or someone else's file
    return True


def _copied(source: Path, target: Path, advance: Advance) -> str:
    with target.open("xb") as writer:
        digest = _digest(_written(_blocks(source, advance), writer))
        writer.flush()
        os.fsync(writer.fileno())
    return digest


def _written(blocks: Iterator[memoryview], writer: BinaryIO) -> Iterator[memoryview]:
    for block in blocks:
        writer.write(block)
        yield block


def _blocks(path: Path, advance: Advance) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as reader:
        while count := reader.readinto(buffer):
            yield buffer[:count]
            advance(count)


def _digest(blocks: Iterator[memoryview]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()
