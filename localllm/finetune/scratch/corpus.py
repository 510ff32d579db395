"""The data as units that are learned from or kept back, before there is a tokenizer for them.

A unit is a document or a conversation. Where there are fewer than 20 documents it is a section of
one, some thousand characters up to the end of a line, so that what is kept back is drawn from all
over a book and not from its last pages. What is kept back is decided here, by what units say:
neither the tokenizer nor the model sees any of it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from localllm.errors import DamagedFile, UsageProblem
from localllm.finetune.data.dataset import Dataset
from localllm.finetune.data.digests import Fingerprints
from localllm.finetune.data.holdout import chosen
from localllm.finetune.data.report import Problem, Problems
from localllm.finetune.data.rows import BadRow, Chat, Text
from localllm.finetune.recipe import held_out
from localllm.finetune.scratch.recipe import TrainRecipe
from localllm.ui import Bytes, Progress

LEAST_BYTES = 16_000  # of text: less has hardly a word twice
FEW = 20  # documents
HELD_SHARE, HELD_MOST = 0.05, 1 << 20  # where nobody says how much is kept back
_SECTIONS = 200
TRAIN, HELD, DROPPED = 0, 1, 2


@dataclass(frozen=True)
class Part:
    """A piece of a document, or a conversation. `begins` and `ends` say whether the document does
    so with it; `unit` counts from 0."""

    record: Text | Chat
    unit: int
    begins: bool
    ends: bool

    @property
    def text(self) -> str:
        """What a tokenizer learns words from."""
        if isinstance(self.record, Text):
            return self.record.text
        return "\n".join(message.content for message in self.record.messages)


@dataclass(frozen=True)
class Corpus:
    """Data with what becomes of each unit. Sizes in bytes of UTF-8; `sha256` is of what it says."""

    dataset: Dataset
    fates: NDArray[np.int8]
    sizes: NDArray[np.int64]
    section: int | None  # characters, where units are sections
    n_documents: int
    n_bad: int
    problems: tuple[Problem, ...]
    sha256: str

    @property
    def is_chat(self) -> bool:
        return self.dataset.format != "text"

    def bytes_of(self, fate: int) -> int:
        return int(self.sizes[self.fates == fate].sum())

    def count(self, fate: int) -> int:
        return int((self.fates == fate).sum())

    def parts(self, fate: int) -> Iterator[Part]:
        """All parts of units that are to be so, in order."""
        for one in _parts(self.dataset, self.section):
            if isinstance(one, Part) and self.fates[one.unit] == fate:
                yield one


def look(dataset: Dataset, recipe: TrainRecipe, progress: Progress) -> Corpus:
    """Read all data once and decide what is kept back.

    Raises UsageProblem where there is too little or it is of a kind that nothing can be trained
    on from scratch, DamagedFile where that is because rows cannot be read.
    """
    if dataset.format == "preference":
        raise UsageProblem(
            "preference pairs tell two answers apart; they teach no language",
            "train on texts or conversations, then localllm finetune NAME --data PAIRS",
        )
    section = None
    with progress.bytes("look at the data", dataset.size_bytes or None) as advance:
        if dataset.format == "text":
            n_documents, n_chars = _documents(dataset)
            if n_documents < FEW:
                section = min(64_000, max(1_000, n_chars // _SECTIONS))
        seen = _Seen(dataset, recipe, section)
        for one in _parts(dataset, section):
            size = seen.take(one)
            advance(size)
    return seen.decide()


def _documents(dataset: Dataset) -> tuple[int, int]:
    n = chars = 0
    for record in _limited(dataset):
        if isinstance(record, Text):
            n += record.first
            chars += len(record.text)
    return n, chars


def _limited(dataset: Dataset) -> Iterator[Text | Chat | BadRow]:
    n, limit = 0, dataset.spec.limit
    for record in dataset.records():
        n += not isinstance(record, Text) or record.first
        if limit is not None and n > limit:
            return
        if isinstance(record, Text | Chat | BadRow):
            yield record


def _parts(dataset: Dataset, section: int | None) -> Iterator[Part | BadRow]:
    """The same parts each time."""
    unit = -1
    for record in _limited(dataset):
        if isinstance(record, BadRow):
            yield record
        elif isinstance(record, Chat):
            unit += 1
            yield Part(record, unit, True, True)
        elif section is None:
            unit += record.first
            yield Part(record, unit, record.first, record.last)
        else:
            pieces = list(_sections(record.text, section))
            for i, text in enumerate(pieces):
                unit += 1
                yield Part(
                    replace(record, text=text), unit, record.first and i == 0,
                    record.last and i == len(pieces) - 1,
                )  # fmt: skip


def _sections(text: str, size: int) -> Iterator[str]:
    """`text` in sections of at least `size` characters, cut where no tokenizer joins both sides:
    behind a newline, before what is no space."""
    start = 0
    while len(text) - start > 2 * size:
        end = start + size
        while (end := text.find("\n", end) + 1) and end < len(text) and text[end].isspace():
            pass
        if not 0 < end < len(text):
            break
        yield text[start:end]
        start = end
    yield text[start:]


class _Seen:
    """One pass over all parts."""

    def __init__(self, dataset: Dataset, recipe: TrainRecipe, section: int | None) -> None:
        self.dataset, self.recipe, self.section = dataset, recipe, section
        self.prints, self.problems = Fingerprints(), Problems()
        self.groups, self.sizes, self.drop = array("q"), array("q"), array("b")
        self.n_documents = 0
        self._size = 0
        self._is_empty = True

    def take(self, one: Part | BadRow) -> int:
        """The bytes of it."""
        if isinstance(one, BadRow):
            if one.kind != "empty":
                self._bad(one)
            return 0
        size = len(one.text.encode("utf-8", "replace"))
        self.n_documents += one.begins
        if isinstance(one.record, Chat):
            self._add(*self.prints.add(one.record), size)
            return size
        is_section = self.section is not None
        self._size = size + (0 if is_section or one.begins else self._size)
        self._is_empty = not one.text.strip() and (is_section or one.begins or self._is_empty)
        text = one.record
        if is_section:  # each has a group of its own
            text = replace(text, first=True, last=True)
        found = self.prints.add_piece(text)
        if found is not None:
            self._add(*found, self._size, empty=self._is_empty)
        return size

    def _bad(self, bad: BadRow) -> None:
        if self.recipe.bad_rows == "error":
            raise DamagedFile(f"{bad.at}: {bad.reason}", "mend it, or --bad-rows skip")
        self.problems.add(bad)

    def _add(self, group: int, repeats: bool, size: int, *, empty: bool = False) -> None:
        drops = repeats and self.recipe.duplicates == "drop" and self.section is None
        self.groups.append(group)
        self.sizes.append(size)
        self.drop.append(drops or (empty and self.section is None))

    def decide(self) -> Corpus:
        groups, sizes = np.array(self.groups, np.int64), np.array(self.sizes, np.int64)
        fates = np.where(np.array(self.drop, np.int8) != 0, DROPPED, TRAIN).astype(np.int8)
        total = int(sizes[fates == TRAIN].sum())
        if total < LEAST_BYTES:
            raise self._too_little(total)
        kept = np.flatnonzero(fates == TRAIN)
        held = _held(groups[kept], sizes[kept], self.recipe)
        fates[kept[np.isin(groups[kept], held)]] = HELD
        if not (fates == HELD).any() or not (fates == TRAIN).any():
            raise UsageProblem(
                "the text cannot be parted into what is learned and what is kept back to judge by",
                "more text, or lines: one line of text is one piece",
            )
        return Corpus(
            self.dataset, fates, sizes, self.section, self.n_documents, self.problems.n_rows,
            self.problems.listed(), self.prints.sha256,
        )  # fmt: skip

    def _too_little(self, total: int) -> UsageProblem | DamagedFile:
        needed = f"a model from scratch needs at least {Bytes(LEAST_BYTES)}, a useful one some MB"
        listed = self.problems.listed()
        if listed:
            first = listed[0]
            return DamagedFile(
                f"{Bytes(total)} of text could be read; {first.n_rows} rows or lines not: "
                f"{first.reason} ({first.rows[0]})",
                needed,
            )
        return UsageProblem(f"the data is {Bytes(total)} of text; {needed}", "--data FOLDER")


def _held(
    groups: NDArray[np.int64], sizes: NDArray[np.int64], recipe: TrainRecipe
) -> list[int]:  # fmt: skip
    """Groups that are kept back: a share of the bytes, or a number of units. None is larger than
    that, unless all are."""
    unique, inverse = np.unique(groups, return_inverse=True)
    total = int(sizes.sum())
    if recipe.held_out is None:
        wanted, count = min(HELD_SHARE * total, HELD_MOST), None
    else:
        share, count = held_out(recipe.held_out)
        wanted = share * total
    weights = np.bincount(inverse, None if count is not None else sizes).astype(np.int64)
    most = max(1, round(wanted)) if count is None else count
    # what says the same a thousand times, or is as long as all the rest, is learned from
    fits = weights <= most
    if not fits.any():
        fits = weights == weights.min()
    if fits.sum() == 1 < len(unique):
        return [int(unique[fits][0])]
    return chosen(unique[fits], weights[fits], most, recipe.seed)
