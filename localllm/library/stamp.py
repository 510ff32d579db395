"""A file as it was when work on it began."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localllm.errors import DamagedFile, FileGone


@dataclass(frozen=True)
class Stamp:
    """Another size, time or identity means other content."""

    path: Path
    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Raises FileGone."""
        try:
            status = path.stat()
        except FileNotFoundError:
            raise FileGone(f"{path} is gone") from None
        return cls(path, status.st_size, status.st_mtime_ns, status.st_ino)

    def check(self) -> None:
        """Raise DamagedFile where the file is not what it was: what was read is of no one
        model."""
        if Stamp.of(self.path) != self:
            raise DamagedFile(
                f"{self.path.name} changed while it was being read; the result was thrown away",
                "run the same command again",
            )
