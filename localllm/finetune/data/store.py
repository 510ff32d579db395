"""Examples by the million: flat arrays, on disk where they are many, and views of them."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import numpy.typing as npt

from localllm.errors import DiskFull
from localllm.finetune.data.rows import RowAt
from localllm.finetune.data.turns import Encoded

Ids = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

SPOOL_BYTES = 256 << 20  # of tokens kept in memory; more go to a temporary file


@dataclass(frozen=True, eq=False)
class Example:
    """`ids` are tokens; `mask[i]` is True where `ids[i]` is a token to be predicted that counts
    (never at 0, where nothing stands before). Read-only views: copy before writing."""

    ids: Ids
    mask: Mask
    source: RowAt

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_targets(self) -> int:
        return int(self.mask.sum())


class Spool:
    """Bytes that only grow, in memory and then in a temporary file without a name."""

    def __init__(self, folder: Path | None, limit: int = SPOOL_BYTES) -> None:
        self._folder, self._limit = folder, limit
        self._buffer = bytearray()
        self._file: IO[bytes] | None = None

    def write(self, data: bytes | bytearray) -> None:
        """Raises DiskFull where the temporary file has no room."""
        self._buffer += data
        if len(self._buffer) > self._limit:
            self._spill()

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - lives on
            self._file.write(self._buffer)
            self._file.flush()
        except OSError as error:
            where = self._folder or tempfile.gettempdir()
            raise DiskFull(
                f"tokens cannot be kept in {where}: {error.strerror or error}",
                "free some space there, or set TMPDIR to a folder that has it",
            ) from None
        self._buffer = bytearray()

    def cut(self, size: int) -> None:
        """Forget what was written after the first `size` bytes."""
        flushed = self._file.tell() if self._file is not None else 0
        if self._file is None or size >= flushed:
            del self._buffer[size - flushed :]
            return
        self._buffer = bytearray()
        self._file.seek(size)
        self._file.truncate()

    def seal(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """All of it as an array that cannot be written to; nothing more is taken."""
        if self._file is None:
            made = np.frombuffer(bytes(self._buffer), dtype=dtype)
        else:
            self._spill()
            made = np.memmap(self._file, dtype=dtype, mode="r")
        self._buffer = bytearray()
        return made


@dataclass(frozen=True, eq=False)
class Tokens:
    """`ids[starts[i]:starts[i + 1]]` is example i. `groups` are of rows that say the same, or
    belong together: they may not be parted. `sources` are the names of files."""

    ids: Ids
    mask: Mask
    starts: Places
    groups: Places
    file_numbers: npt.NDArray[np.int32]
    numbers: Places
    sources: tuple[tuple[str, str], ...]  # name, unit

    @cached_property
    def targets(self) -> Places:
        """Tokens of each example that count; no example is without tokens."""
        if not len(self.groups):
            return np.zeros(0, dtype=np.int64)
        return np.add.reduceat(self.mask, self.starts[:-1], dtype=np.int64)


class Builder:
    """Collects examples."""

    def __init__(self, scratch: Path | None = None) -> None:
        self._ids, self._mask = Spool(scratch), Spool(scratch)
        self._starts, self._groups = array("q", [0]), array("q")
        self._files, self._numbers = array("i"), array("q")
        self._sources: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, encoded: Encoded, group: int, at: RowAt) -> None:
        mask = bytearray(len(encoded.ids))
        for start, end in encoded.spans:
            mask[start:end] = b"\x01" * (end - start)
        if mask:
            mask[0] = 0
        self._ids.write(np.asarray(encoded.ids, dtype=np.int32).tobytes())
        self._mask.write(mask)
        self._starts.append(self._starts[-1] + len(encoded.ids))
        self._groups.append(group)
        source = (at.file, at.unit)
        self._files.append(self._sources.setdefault(source, len(self._sources)))
        self._numbers.append(at.number)

    def regroup(self, first: int, group: int) -> None:
        """Let all from example `first` on belong to `group`."""
        for i in range(first, len(self._groups)):
            self._groups[i] = group

    def cut(self, count: int) -> None:
        """Forget all but the first `count` examples."""
        n_tokens = self._starts[count]
        self._ids.cut(4 * n_tokens)
        self._mask.cut(n_tokens)
        del self._starts[count + 1 :]
        for held in (self._groups, self._files, self._numbers):
            del held[count:]

    def seal(self) -> Tokens:
        return Tokens(
            self._ids.seal(np.int32),
            self._mask.seal(np.bool_),
            np.array(self._starts, dtype=np.int64),
            np.array(self._groups, dtype=np.int64),
            np.array(self._files, dtype=np.int32),
            np.array(self._numbers, dtype=np.int64),
            tuple(self._sources),
        )


class Examples(Sequence[Example]):
    """Some of the examples in `tokens`, in the order of `places`. Cheap to make and to index."""

    def __init__(self, tokens: Tokens, places: Places | None = None) -> None:
        self.tokens = tokens
        self.places = np.arange(len(tokens.groups)) if places is None else places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, i: int) -> Example: ...
    @overload
    def __getitem__(self, i: slice) -> Examples: ...
    def __getitem__(self, i: int | slice) -> Example | Examples:
        if isinstance(i, slice):
            return Examples(self.tokens, self.places[i])
        k, t = int(self.places[i]), self.tokens
        start, end = int(t.starts[k]), int(t.starts[k + 1])
        name, unit = t.sources[int(t.file_numbers[k])]
        return Example(t.ids[start:end], t.mask[start:end], RowAt(name, int(t.numbers[k]), unit))

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))

    def select(self, which: Places) -> Examples:
        """Those at `which`, places in this sequence."""
        return Examples(self.tokens, self.places[which])

    @cached_property
    def lengths(self) -> Places:
        """Tokens of each example."""
        starts = self.tokens.starts
        return np.asarray(starts[self.places + 1] - starts[self.places])

    @cached_property
    def targets(self) -> Places:
        """Tokens of each example that count."""
        return self.tokens.targets[self.places]

    @property
    def groups(self) -> Places:
        return np.asarray(self.tokens.groups[self.places])

    @property
    def n_tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def n_targets(self) -> int:
        return int(self.targets.sum())


@dataclass(frozen=True, eq=False)
class PairExample:
    """Two answers to one request; the tokens of the answers count."""

    chosen: Example
    rejected: Example

    def __len__(self) -> int:
        return len(self.chosen) + len(self.rejected)


class Pairs(Sequence[PairExample]):
    """Pairs as two sequences of the same length."""

    def __init__(self, chosen: Examples, rejected: Examples) -> None:
        self.chosen, self.rejected = chosen, rejected

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, i: int) -> PairExample: ...
    @overload
    def __getitem__(self, i: slice) -> Pairs: ...
    def __getitem__(self, i: int | slice) -> PairExample | Pairs:
        if isinstance(i, slice):
            return Pairs(self.chosen[i], self.rejected[i])
        return PairExample(self.chosen[i], self.rejected[i])

    def select(self, which: Places) -> Pairs:
        return Pairs(self.chosen.select(which), self.rejected.select(which))

    @cached_property
    def lengths(self) -> Places:
        """Tokens of the longer side of each pair."""
        return np.maximum(self.chosen.lengths, self.rejected.lengths)

    @property
    def groups(self) -> Places:
        return self.chosen.groups

    @property
    def n_tokens(self) -> int:
        return self.chosen.n_tokens + self.rejected.n_tokens

    @property
    def n_targets(self) -> int:
        return self.chosen.n_targets + self.rejected.n_targets
