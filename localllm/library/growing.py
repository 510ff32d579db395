"""The sha256 of a file while it is written, though its head is written last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

_BLOCK_BYTES = 1 << 20  # the same all the time, and small enough for the processor's own cache


class GrowingDigest:
    """Of `path`, which somebody else writes from its beginning to its end, and then `head` over
    the placeholder it began with. What is there is hashed on the way; were the head another one
    in the end, the whole file is hashed anew. A head says itself how long it is, as that of a
    GGUF does.
    """

    def __init__(self, path: Path, head: bytes) -> None:
        self._path, self._head = path, head
        self._at = len(head)
        self._digest = hashlib.sha256(head)
        self._block = memoryview(bytearray(_BLOCK_BYTES))

    def follow(self, advance: Callable[[int], None] = lambda n_bytes: None) -> None:
        """Hash what came since: the bytes below the file's size are final, but for the head."""
        try:
            file = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            return  # not begun
        with file:
            file.seek(self._at)
            while n := file.readinto(self._block):
                self._digest.update(self._block[:n])
                self._at += n
                advance(n)

    def finish(self, advance: Callable[[int], None]) -> str:
        """The file is whole. `advance` is told of the bytes that were hashed for it, all in all
        the file's size. Raises OSError."""
        with self._path.open("rb", buffering=0) as file:
            as_foretold = file.read(len(self._head)) == self._head
        if not as_foretold:
            return self.anew(advance)
        advance(self._at)
        self.follow(advance)
        return self._digest.hexdigest()

    def anew(self, advance: Callable[[int], None]) -> str:
        """Of the whole file, whatever was hashed on the way."""
        return digest_of(self._path, advance)


def digest_of(path: Path, advance: Callable[[int], None]) -> str:
    """sha256 of a file that is whole; `advance` is told of the bytes as they are hashed."""
    return GrowingDigest(path, b"").finish(advance)
