"""Placeholders out, data back in.

A `Masker` lasts as long as a conversation: the same value has the same placeholder in every
turn, and an answer to any of them can be restored. It lives in memory only; nothing here
prints or logs a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache

from localllm.privacy.escapes import unescaped
from localllm.privacy.finding import SECRETS, Finding, Kind
from localllm.privacy.placeholders import ALL, LITERAL, Key, Spellings
from localllm.privacy.plain import Plain


class Masked:
    """A text with placeholders, and the way back. Its repr shows neither text nor values."""

    def __init__(self, text: str, table: Masker) -> None:
        self.text = text
        self._table = table

    def __repr__(self) -> str:
        return f"Masked({len(self.text)} characters, {self._table!r})"

    def restore(self, answer: str) -> str:
        """`answer` with every placeholder that stands for a value replaced by it."""
        return self._table.restore(answer)

    def restorer(self, json_text: bool = False) -> Restorer:
        """A restorer for an answer that comes in pieces."""
        return self._table.restorer(json_text)


class Masker:
    """The placeholders of one conversation and what they stand for."""

    def __init__(self) -> None:
        self._values: dict[Key, str] = {}
        self._keys: dict[tuple[str, str], Key] = {}  # by name and exact spelling
        self._numbers: dict[tuple[str, str], int] = {}  # by name and value
        self._next: dict[str, int] = {}
        # of texts that had them before we gave them out
        self._reserved: set[Key] = set()
        self._reserved_numbers: set[tuple[str, int]] = set()

    def __repr__(self) -> str:
        return f"Masker({len(self._values)} placeholders)"

    def __len__(self) -> int:
        return len(self._values)

    def mask(self, text: str, findings: Iterable[Finding]) -> Masked:
        """`text` with each finding replaced. The findings are those of `find` or `decide` for
        this very text: in order, none overlapping. `restore(mask(text).text)` is `text`."""
        parts: list[str] = []
        done = 0
        findings = tuple(findings)
        self._reserve(text)
        for finding in findings:
            parts.append(self._escaped(text[done : finding.start]))
            value = text[finding.start : finding.end]
            parts.append(str(self._key(finding.kind.name, value, _canonical(finding.kind, value))))
            done = finding.end
        parts.append(self._escaped(text[done:]))
        return Masked("".join(parts), self)

    def restore(self, answer: str) -> str:
        restorer = self.restorer()
        return restorer.feed(answer) + restorer.finish()

    def restorer(self, json_text: bool = False) -> Restorer:
        """A restorer for one answer. With `json_text` the answer is JSON (the arguments of a
        tool call): values are escaped as the inside of a JSON string."""
        return Restorer(self._values, json_text)

    def _reserve(self, text: str) -> None:
        """What looks like a placeholder in a text is left alone, and its number not given out."""
        for _, _, key in _written(text):
            if key not in self._values:
                self._reserved.add(key)
                self._reserved_numbers.add((key.name, key.number))

    def _escaped(self, text: str) -> str:
        """A text in which somebody wrote one of our placeholders has it masked like a value;
        restored as a placeholder it would put another's data there."""
        parts: list[str] = []
        done = 0
        for start, end, key in _written(text):
            if key in self._values:
                parts += [
                    text[done:start],
                    str(self._key(LITERAL, text[start:end], text[start:end])),
                ]
                done = end
        return "".join([*parts, text[done:]])

    def _key(self, name: str, spelling: str, value: str) -> Key:
        known = self._keys.get((name, spelling))
        if known is not None:
            return known
        number = self._numbers.get((name, value))
        letters = "" if number is None else self._letter(name, number)
        if number is None or letters is None:
            number, letters = self._number(name), ""
            self._numbers[name, value] = number
        key = Key(name, number, letters)
        self._keys[name, spelling] = key
        self._values[key] = spelling
        return key

    def _letter(self, name: str, number: int) -> str | None:
        """The next free letter for another spelling of a value, None after z."""
        keys = ((letter, Key(name, number, letter)) for letter in "bcdefghijklmnopqrstuvwxyz")
        free = (c for c, key in keys if key not in self._values and key not in self._reserved)
        return next(free, None)

    def _number(self, name: str) -> int:
        number = self._next.get(name, 1)
        while (name, number) in self._reserved_numbers:
            number += 1
        self._next[name] = number + 1
        return number


class Restorer:
    """Puts values back into an answer that comes in pieces, cut anywhere.

    `feed` gives out all that cannot be the beginning of a placeholder; what it holds back is
    never more than one placeholder long. The outcome does not depend on where the cuts are.
    """

    def __init__(self, values: dict[Key, str], json_text: bool) -> None:
        self._values = values
        self._json = json_text
        self._spellings = (
            _spellings(tuple(sorted({key.name for key in values}))) if values else None
        )
        self._held = ""
        self._before = ""  # the last character given out: a bare name begins at a word's edge

    def __repr__(self) -> str:
        return f"Restorer({len(self._values)} placeholders)"

    def feed(self, piece: str) -> str:
        """What can be given out after this piece."""
        return self._given_out(piece, final=False)

    def finish(self) -> str:
        """What was held back, at the end of the answer."""
        return self._given_out("", final=True)

    def _given_out(self, piece: str, final: bool) -> str:
        if self._spellings is None:
            return piece
        text = self._before + self._held + piece
        done = len(self._before)
        parts: list[str] = []
        cut = -1
        while True:
            if cut < done:
                cut = len(text) if final else self._spellings.beginning(text, done)
            found = self._spellings.search(text, done, final)
            if found is None or found.start() > cut:
                break
            parts += [text[done : found.start()], self._value(found)]
            done = found.end()
        parts.append(text[done:cut])
        self._held = text[cut:]
        self._before = text[cut - 1 : cut] if cut else ""
        return "".join(parts)

    def _value(self, found: re.Match[str]) -> str:
        assert self._spellings is not None
        value = self._values.get(self._spellings.key(found))
        if value is None:
            return found.group()
        return json.dumps(unescaped(value), ensure_ascii=False)[1:-1] if self._json else value


def mask(text: str, findings: Iterable[Finding]) -> Masked:
    """One text masked by itself; for a conversation keep a `Masker`."""
    return Masker().mask(text, findings)


@cache
def _spellings(names: tuple[str, ...]) -> Spellings:
    return Spellings(names)


def _written(text: str) -> list[tuple[int, int, Key]]:
    """Everything in `text` that a restorer could take for a placeholder of ours."""
    spellings = _spellings(ALL)
    written, at = [], 0
    while found := spellings.search(text, at, final=True):
        written.append((found.start(), found.end(), spellings.key(found)))
        at = found.end()
    return written


def _canonical(kind: Kind, value: str) -> str:
    """What two spellings of one value share: width, and case and separators where they do
    not matter. A password's do."""
    plain = Plain(value).text
    if kind in SECRETS:
        return plain
    if kind in (Kind.EMAIL, Kind.ADDRESS, Kind.IP):
        return re.sub(r"\s+", " ", plain).lower()
    return "".join(c for c in plain if c.isalnum()).upper()
