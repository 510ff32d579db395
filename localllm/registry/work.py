"""Work in progress: where incomplete files lie, and the locks that say who is at them."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from localllm.registry.database import make_folder, unwritable
from localllm.registry.landing import safe_component

_PARTIAL = re.compile(r"\.([0-9a-f]{16})(?:\.[0-9a-f]{8})?\.part")
_FRESH_S = 60.0


def partial_path(home: Path, key: str, label: str, member: str = "") -> Path:
    """The same path for the same `key` and `member`; `label` is for people who look."""
    marks = [_mark(key), _mark(member)[:8]] if member else [_mark(key)]
    readable = safe_component(label).encode()[:100].decode("utf-8", "ignore")
    return home / "partial" / f"{readable}.{'.'.join(marks)}.part"


@contextmanager
def locked(home: Path, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold `key`; `waiting` is called once if somebody else does.

    The file stays afterwards: deleting one that somebody is about to take would let two in.
    """
    from filelock import FileLock, Timeout

    path = _lock_path(home, _mark(key))
    make_folder(path.parent)
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
    except OSError as e:
        raise unwritable(path.parent, e) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def abandoned(home: Path, partial: Path) -> Iterator[bool]:
    """Whether nobody is at this file (or what lies beside it, named after it), which stays so
    while the block runs.

    Without any lock file to tell by, one written to within the last minute is taken as in use.
    """
    from filelock import FileLock, Timeout

    match = _PARTIAL.search(partial.name)
    path = _lock_path(home, match[1]) if match else None
    if path is None or not path.is_file():
        yield _is_old(partial)
        return
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def anyone(home: Path) -> bool:
    """Whether some work is going on in this home: a lock of it is held."""
    from filelock import FileLock, Timeout

    for path in (home / "locks").glob("*.lock"):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            return True
        lock.release()
    return False


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime >= _FRESH_S
    except OSError:
        return False


def _mark(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _lock_path(home: Path, mark: str) -> Path:
    return home / "locks" / f"{mark}.lock"
