"""Text as the detectors read it: half-width, one kind of dash and space, nothing invisible.

Japanese forms are filled in with full-width digits and letters, and with any of a dozen
dashes; copied text has zero-width characters in the middle of numbers. All of it is mapped
one character to one character, so that offsets stay what they are; only invisible
characters are taken out and characters written as others (privacy.escapes) resolved, and
`Plain.span` puts them back into account.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property

from localllm.privacy.escapes import ESCAPE, characters

_SPACES = [0x00A0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000]
_DASHES = [*range(0x2010, 0x2016), 0x2043, 0x2212, 0xFE58, 0xFE63, 0x2500]
# zero of each run of ten digits that people type in place of 0 to 9
_ZEROS = [0x0660, 0x06F0, 0x0966, *range(0x1D7CE, 0x1D800, 10)]
_INVISIBLE = re.compile("[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]+")
_CUT = re.compile(f"(?P<invisible>{_INVISIBLE.pattern})|{ESCAPE.pattern}")
# the long vowel mark is a letter of katakana words (パスワード) and a dash only between digits
_LONG_MARK = re.compile("(?<=[0-9])[ーｰ](?=[0-9])")


# a stretch with six digits or more, with no more than three other characters between two
_DIGITS = re.compile(r"[0-9](?:[^0-9\n]{0,3}+[0-9]){5,}+")


def _mapped() -> dict[int, int]:
    table = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
    table |= dict.fromkeys(_SPACES, ord(" ")) | dict.fromkeys(_DASHES, ord("-"))
    table |= {zero + n: ord("0") + n for zero in _ZEROS for n in range(10)}
    table[0x0130] = ord("I")  # the only character that grows when it is lowered
    return table


_TABLE = _mapped()
_WIDE = re.compile("[^\\x00-\\x7f]+")


class Plain:
    """`text` of the same length as the original less its invisible characters and escapes, of
    `level` strings within strings."""

    def __init__(self, original: str, level: int = 0) -> None:
        self._cuts: list[int] = []  # offsets in `text` at which characters were taken out
        self._lost: list[int] = []  # how many, up to and with that cut
        self._width: dict[int, int] = {}  # of those in `text` that are written with several
        text = original if original.isascii() else _wide_mapped(original)
        has_escapes = "\\" in text or "&#" in text or "%" in text
        if has_escapes or not text.isascii():
            text = self._shortened(text, _CUT if has_escapes else _INVISIBLE, level)
            text = _LONG_MARK.sub("-", text)
        self.text = text

    def __repr__(self) -> str:
        return f"Plain({len(self.text)} characters)"

    @cached_property
    def lower(self) -> str:
        return self.text.lower()

    @cached_property
    def stretches(self) -> list[tuple[int, int]]:
        """Where digits are: one pass instead of one for each of thirty kinds of number. Each
        with room before it for letters that begin a number, and after it for what ends one."""
        return [(max(0, m.start() - 12), m.end() + 24) for m in _DIGITS.finditer(self.text)]

    def numbers(self, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        """Every match of a pattern of six digits or more. A match may come twice, where
        stretches lie close together."""
        for start, end in self.stretches:
            yield from pattern.finditer(self.text, start, end)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The stretch of the original that `text[start:end]` came from."""
        if not self._cuts:
            return start, end
        return self._original(start), self._original(end - 1) + self._width.get(end - 1, 1)

    def before(self, start: int, reach: int = 40) -> str:
        """What stands before `start`, lowered: its own line and the line above,
        with `_` as a space (my_number)."""
        lines = self.lower[max(0, start - reach) : start].split("\n")[-2:]
        return "\n".join(lines).replace("_", " ")

    def _original(self, index: int) -> int:
        cut = bisect_right(self._cuts, index)
        return index + (self._lost[cut - 1] if cut else 0)

    def _shortened(self, text: str, pattern: re.Pattern[str], level: int) -> str:
        parts, done, n, lost = [], 0, 0, 0
        for found in pattern.finditer(text):
            parts.append(text[done : found.start()])
            n += found.start() - done
            done = found.end()
            whole = [("", done - found.start())]
            if pattern is _CUT and found["invisible"] is None:
                whole = list(characters(found, level))
            for one, width in whole:
                # what is written in escapes is full-width or invisible as well
                shown = _INVISIBLE.sub("", _wide_mapped(one))
                if shown and width > 1:
                    self._width[n] = width
                if width > len(shown):
                    lost += width - len(shown)
                    self._cuts.append(n + len(shown))
                    self._lost.append(lost)
                parts.append(shown)
                n += len(shown)
        parts.append(text[done:])
        return "".join(parts)


def _wide_mapped(text: str) -> str:
    return _WIDE.sub(lambda found: found.group().translate(_TABLE), text)
