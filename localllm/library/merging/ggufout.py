"""Writing a GGUF tensor by tensor, hashed as it is written."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from localllm.errors import EngineError

if TYPE_CHECKING:
    from localllm.formats.gguf.rewrite import NewHeader


class GGUFOut:
    """`path` is a temporary name of the caller's: on any failure the file is removed.

        with GGUFOut(path, header) as out:
            out.write(block); out.end_tensor()
        out.sha256

    Tensors come in the order of `header`. Leaving the block checks that all of them came, each
    of the size that the header says.
    """

    def __init__(self, path: Path, header: NewHeader) -> None:
        self.path = path
        self.header = header
        self.sha256 = ""
        self._digest = hashlib.sha256()
        self._file = path.open("wb")
        self._at = 0
        self._next = 0
        try:
            self.write(header.raw)
        except BaseException:
            self._discard()
            raise

    def write(self, block: Any) -> None:
        """Bytes of the current tensor: anything with a buffer."""
        view = memoryview(block).cast("B")
        self._file.write(view)
        self._digest.update(view)
        self._at += len(view)

    def end_tensor(self) -> None:
        """The current tensor is whole. Raises EngineError where its size is another."""
        tensor, offset = self.header.tensors[self._next], self.header.offsets[self._next]
        if self._at != offset + tensor.size_bytes:
            raise EngineError(
                f"{tensor.name} came out as {self._at - offset} bytes, not {tensor.size_bytes}"
            )
        self.write(bytes(-self._at % self.header.alignment))
        self._next += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._discard()
            return
        try:
            if self._next != len(self.header.tensors) or self._at != self.header.file_bytes:
                raise EngineError(f"{self.path.name} is not whole: {self._at} bytes were written")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except BaseException:
            self._discard()
            raise
        self.sha256 = self._digest.hexdigest()

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()  # it flushes, which fails again on a full disk
        self.path.unlink(missing_ok=True)
