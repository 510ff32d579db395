"""What was found in data, as plain values for people and programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from localllm.finetune.data.rows import BadRow, RowAt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAMED = 20  # rows of one problem that are named


@dataclass(frozen=True)
class SourceFile:
    """A file that was read. `sha256` is of its bytes as it lies there."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Problem:
    """Rows that were not used, and why. `rows` names the first ones."""

    kind: str
    n_rows: int
    reason: str  # of the first
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Bin:
    """Examples of `first` to `last` tokens."""

    first: int
    last: int
    n_examples: int


@dataclass(frozen=True)
class Lengths:
    """Tokens of examples, before anything was cut off."""

    shortest: int
    median: int
    p95: int
    longest: int
    histogram: tuple[Bin, ...]


@dataclass(frozen=True)
class Piece:
    """A part of a rendered example, as the vocabulary writes it, control tokens with it."""

    text: str
    n_tokens: int
    in_loss: bool


@dataclass(frozen=True)
class Rendered:
    """An example as the model sees it. `side` is "chosen" or "rejected" of a pair, else ""."""

    row: str
    side: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class DataReport:
    """Counts are of rows unless they say otherwise.

    `n_rows` are all that were read; each is an example (or several), a problem, empty, dropped
    as too long or as a duplicate. `sha256` is of what the rows say, whatever file or format they
    come from. `lost_tokens` were cut off or dropped, `lost_targets` of them would have counted.
    `duplicates_same` differ from an earlier row in case and spaces only.
    """

    files: tuple[SourceFile, ...]
    refs: tuple[str, ...]
    n_chats: int
    n_votes: int
    sha256: str
    format: str
    format_named: bool
    columns: dict[str, str]
    evidence: tuple[str, ...]
    template: str
    template_origin: str
    template_why: str
    date: str | None
    loss: str
    max_length: int
    overlong: str
    n_rows: int
    n_examples: int
    n_pairs: int
    n_tokens: int
    n_targets: int
    n_truncated: int
    n_too_long: int
    n_split: int
    lost_tokens: int
    lost_targets: int
    n_empty: int
    empty_rows: tuple[str, ...]  # where the first ones lie
    duplicates_exact: int
    duplicates_same: int
    duplicates_dropped: int
    n_bad: int
    lengths: Lengths | None
    problems: tuple[Problem, ...]
    samples: tuple[Rendered, ...]
    warnings: tuple[str, ...]


@dataclass
class Problems:
    """Collects what is wrong with rows, by kind."""

    _counts: Counter[str] = field(default_factory=Counter)
    _first: dict[str, tuple[str, list[RowAt]]] = field(default_factory=dict)

    def add(self, bad: BadRow) -> None:
        self._counts[bad.kind] += 1
        _, places = self._first.setdefault(bad.kind, (bad.reason, []))
        if len(places) < NAMED:
            places.append(bad.at)

    @property
    def n_rows(self) -> int:
        return sum(self._counts.values())

    def listed(self) -> tuple[Problem, ...]:
        """The most frequent first."""
        return tuple(
            Problem(kind, count, self._first[kind][0], named(self._first[kind][1]))
            for kind, count in self._counts.most_common()
        )


def named(places: Sequence[RowAt]) -> tuple[str, ...]:
    """Rows as texts; a file is named once for those that follow one another."""
    found: list[str] = []
    last = ""
    for at in places:
        found.append(f"{at.number}" if found and at.file == last else str(at))
        last = at.file
    return tuple(found)


def lengths_of(lengths: NDArray[np.int64]) -> Lengths | None:
    """Of examples' tokens; bins end at powers of two, so that the same data has the same ones."""
    import numpy as np

    if not len(lengths):
        return None
    top = max(4, int(np.ceil(np.log2(max(1, int(lengths.max()))))))
    edges = [0, *(2**k for k in range(4, top + 1))]
    counts, _ = np.histogram(lengths, bins=[e + 0.5 for e in edges])
    bins = [
        Bin(low + 1, high, int(n)) for low, high, n in zip(edges, edges[1:], counts, strict=False)
    ]
    while len(bins) > 1 and bins[0].n_examples == 0:
        bins.pop(0)
    return Lengths(
        int(lengths.min()),
        int(np.median(lengths)),
        int(np.percentile(lengths, 95)),
        int(lengths.max()),
        tuple(bins),
    )
