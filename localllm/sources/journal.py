"""The small file beside a partial download: what it is of, and which bytes are there."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

_VERSION = 1


class Extents:
    """A set of bytes as sorted, disjoint half-open ranges."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._ranges: list[tuple[int, int]] = []
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._ranges)

    def add(self, start: int, end: int) -> None:
        """Add the bytes from `start` up to `end`; what touches is joined."""
        if start >= end:
            return
        first = bisect_left(self._ranges, start, key=lambda r: r[1])
        last = bisect_right(self._ranges, end, key=lambda r: r[0])
        if first < last:
            start = min(start, self._ranges[first][0])
            end = max(end, self._ranges[last - 1][1])
        self._ranges[first:last] = [(start, end)]

    def clipped(self, size: int) -> Extents:
        """The part below `size`."""
        return Extents((start, min(end, size)) for start, end in self._ranges)

    @property
    def total(self) -> int:
        return sum(end - start for start, end in self._ranges)

    @property
    def prefix(self) -> int:
        """How many bytes are there from the start without a gap."""
        return self._ranges[0][1] if self._ranges and self._ranges[0][0] == 0 else 0


@dataclass(frozen=True)
class Identity:
    """Which content a download is of, as far as is known."""

    url: str
    size_bytes: int | None = None
    sha256: str | None = None
    etag: str | None = None

    def conflict(self, other: Identity) -> str | None:
        """Why `other` cannot be the same content; None where it can.

        A published digest settles it. Without one the URL must be the same, and etag and size
        must not speak against it.
        """
        if _differ(self.size_bytes, other.size_bytes):
            return "its size has changed"
        if self.sha256 and other.sha256:
            return None if self.sha256 == other.sha256 else "its digest has changed"
        if self.url != other.url:
            return "it came from another address"
        return "it has changed at its source" if _differ(self.etag, other.etag) else None

    def learned(self, etag: str | None, size_bytes: int | None) -> Identity:
        """With what a server said where nothing was known yet."""
        return replace(
            self,
            etag=etag if self.etag is None else self.etag,
            size_bytes=size_bytes if self.size_bytes is None else self.size_bytes,
        )


def _differ(mine: object, other: object) -> bool:
    return mine is not None and other is not None and mine != other


@dataclass(frozen=True)
class Journal:
    """What is noted beside a partial."""

    identity: Identity
    done: tuple[tuple[int, int], ...]

    @classmethod
    def load(cls, path: Path) -> Journal | None:
        """The journal at `path`; None where there is none that can be trusted."""
        try:
            value: Any = json.loads(path.read_text(encoding="utf-8"))
            if value["version"] != _VERSION:
                return None
            identity = Identity(**value["identity"])
            if not isinstance(identity.size_bytes, int | None):
                return None
            return cls(identity, tuple((int(start), int(end)) for start, end in value["done"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def save(self, path: Path) -> None:
        """Replace the journal at `path`: a kill leaves the old one or the new one. OSError."""
        value = {"version": _VERSION, "identity": asdict(self.identity), "done": self.done}
        fresh = path.with_name(path.name + ".new")
        try:
            fresh.write_text(json.dumps(value), encoding="utf-8")
            fresh.replace(path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
