"""Units as tokens, and as the rows that are computed together.

Tokens are llama.cpp's own, by the vocabulary that the model will carry. A document begins with
the token that begins a text and ends with the one that ends it; each chunk of it begins with the
first, as a context does. Chunks are laid into rows of as many tokens as the model's context,
each seeing only itself.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import tee

import numpy as np
from numpy.typing import NDArray

from localllm.finetune.data.crew import Crew
from localllm.finetune.data.dialect import Dialect
from localllm.finetune.data.encoding import Made
from localllm.finetune.data.lengths import fit
from localllm.finetune.data.store import Builder, Example, Examples
from localllm.finetune.data.turns import Encoded, Limits
from localllm.finetune.scratch.corpus import Corpus, Part
from localllm.ui import Progress


class Sequences(Sequence[Sequence[Example]]):
    """Rows of examples: item i holds those at `rows[i]`, each a sequence of its own."""

    def __init__(self, examples: Examples, rows: Sequence[NDArray[np.int64]], learn: str) -> None:
        self.examples, self.rows, self.learn = examples, rows, learn

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Sequence[Example]:  # type: ignore[override]
        return [counted(self.examples[int(k)], self.learn) for k in self.rows[i]]


def counted(example: Example, learn: str) -> Example:
    """The example with the mask of what is learned: "all" is every token but the first,
    "assistant" what its mask says."""
    if learn != "all":
        return example
    mask = np.ones(len(example.ids), dtype=np.bool_)
    mask[0] = False
    return Example(example.ids, mask, example.source)


@dataclass(frozen=True)
class Encoding:
    """`examples` with the answers of conversations as what counts; `n_lost` tokens of
    conversations longer than the context were cut off."""

    examples: Examples
    n_lost: int

    @property
    def n_tokens(self) -> int:
        """That are predicted: all but the first of each chunk."""
        return self.examples.n_tokens - len(self.examples)


def encode(
    corpus: Corpus, fate: int, dialect: Dialect, context: int, threads: int, progress: Progress,
    label: str,
) -> Encoding:  # fmt: skip
    """The units of that fate. Tokens lie in memory up to 256 MiB, beyond that in a temporary
    file. Raises DiskFull."""
    limits = Limits("assistant", context + 1)
    built, chunks = Builder(), _Chunks(dialect, context + 1)
    lost = 0
    parts, again = tee(corpus.parts(fate))  # as far apart as rows are under way
    crew = Crew(dialect, limits, "truncate", threads)
    with (
        progress.bytes(label, corpus.bytes_of(fate) or None) as advance,
        closing(crew.made(part.record for part in parts)) as found,
    ):
        for part, one in zip(again, found, strict=True):
            advance(len(part.text.encode("utf-8", "replace")))
            if one.tokens is not None:
                for chunk in chunks.feed(part, one.tokens):
                    built.add(chunk, part.unit, part.record.at)
            else:
                lost += _add_chat(built, part, one, context + 1)
        for chunk in chunks.rest():
            built.add(chunk, chunks.unit, chunks.at)
    return Encoding(Examples(built.seal()), lost)


def _add_chat(built: Builder, part: Part, made: Made, limit: int) -> int:
    fitted = fit(made.sequences, limit, "truncate", part.record.at)
    for one in fitted.sequences:
        built.add(one, part.unit, part.record.at)
    return fitted.lost_tokens


class _Chunks:
    """Chunks of documents, from parts in order of which some may be missing."""

    def __init__(self, dialect: Dialect, length: int) -> None:
        tokenizer = dialect.tokenizer
        self._first = [] if tokenizer.bos is None else [tokenizer.bos]
        self._last = [] if tokenizer.eos is None else [tokenizer.eos]
        self._room = length - len(self._first)
        self._held: list[int] = []
        self._next: int | None = None  # the unit that goes on with what is held
        self.unit = 0

    def feed(self, part: Part, ids: array[int]) -> Iterator[Encoded]:
        """The chunks that are full with `part`."""
        goes_on = not part.begins and part.unit in (self._next, self.unit)
        if not goes_on:
            yield from self.rest()
        self.unit, self.at, self._next = part.unit, part.record.at, part.unit + 1
        self._held.extend(ids)
        if part.ends:
            self._held += self._last
        end = len(self._held) - len(self._held) % self._room
        for i in range(0, end, self._room):
            yield self._chunk(self._held[i : i + self._room])
        self._held = self._held[end:]
        if part.ends:
            yield from self.rest()

    def rest(self) -> Iterator[Encoded]:
        """What is held, as a chunk that is not full."""
        if self._held:
            yield self._chunk(self._held)
        self._held = []

    def _chunk(self, body: list[int]) -> Encoded:
        ids = self._first + body
        return Encoded(ids, [(1, len(ids))])


def rows_of(lengths: NDArray[np.int64], room: int) -> list[NDArray[np.int64]]:
    """Examples in rows of at most `room` computed tokens (one fewer than an example has), the
    longest first, each into the fullest row that has room for it."""
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # free tokens: rows
    for k in np.argsort(-lengths, kind="stable"):
        size = max(1, int(lengths[k]) - 1)
        free = next((f for f in range(size, room + 1) if by_room.get(f)), None)
        if free is None:
            rows.append([])
            place, free = len(rows) - 1, max(room, size)
        else:
            place = by_room[free].pop()
        rows[place].append(int(k))
        by_room.setdefault(free - size, []).append(place)
    return [np.array(row, dtype=np.int64) for row in rows]
