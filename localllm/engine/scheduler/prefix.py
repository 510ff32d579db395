"""What sequences have in common, and what is remembered of those that ended."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from localllm.engine.scheduler.slot import AdapterKey
from localllm.engine.vision.prompt import Wide, cells_of


def tokens_array(tokens: object) -> array[int]:
    """C ints: half a cent of a list's memory, and compared by memcmp."""
    return array("i", tokens)  # type: ignore[call-overload,no-any-return]


def common_length(one: array[int], other: array[int], limit: int) -> int:
    """Length of the common beginning, at most `limit`."""
    limit = min(limit, len(one), len(other))
    if limit <= 0 or one[0] != other[0]:
        return 0
    left, right = memoryview(one), memoryview(other)
    low, step = 1, 16
    while low < limit and left[low : low + step] == right[low : low + step]:
        low, step = low + step, step * 2
    if low >= limit:
        return limit
    high = min(limit, low + step)  # the difference is between the two
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(eq=False)
class Held:
    """A sequence that nobody works on, kept for a request that begins like it."""

    sequence: int
    tokens: array[int]  # all in memory
    key: AdapterKey
    wide: Wide = ()


@dataclass(frozen=True, eq=False)
class Saved:
    """A sequence of `tokens` in main memory: `whole`, or what is special to its end (see
    Sequences.save)."""

    tokens: array[int]
    key: AdapterKey
    data: bytes
    whole: bool
    wide: Wide = ()

    @property
    def n_cells(self) -> int:
        return cells_of(len(self.tokens), self.wide)


class Store:
    """What was saved and used latest, up to so many bytes."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._kept: OrderedDict[int, Saved] = OrderedDict()  # by identity, latest used last

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Saved]:
        return iter(self._kept.values())

    def takes(self, n_bytes: int) -> bool:
        """Whether something of this size is kept: not if it would push out most of the rest."""
        return 0 < n_bytes <= self.capacity_bytes // 2

    def has(self, tokens: array[int], key: AdapterKey, *, whole: bool) -> bool:
        return any(one.whole == whole and one.key == key and one.tokens == tokens for one in self)

    def add(self, saved: Saved) -> None:
        if not self.takes(len(saved.data)):
            return
        self._kept[id(saved)] = saved
        self.used_bytes += len(saved.data)
        while self.used_bytes > self.capacity_bytes:
            self.remove(next(iter(self)))

    def remove(self, saved: Saved) -> None:
        del self._kept[id(saved)]
        self.used_bytes -= len(saved.data)

    def touch(self, saved: Saved) -> None:
        """It was used just now. What making room for its use pushed out is not put back."""
        if id(saved) in self._kept:
            self._kept.move_to_end(id(saved))

    def clear(self) -> None:
        self._kept.clear()
        self.used_bytes = 0
