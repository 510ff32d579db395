"""The last lines on a terminal, drawn again as they change; what is above them stays for ever.

Only lines that differ are written again, so nothing flickers, and never more lines than the
screen has are kept changeable: what scrolled away cannot be reached.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TextIO

from localllm.ui.cells import cells

Size = Callable[[], tuple[int, int]]  # columns, rows

_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Terminals that know it show a whole update at once; the others ignore it.
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"


class LiveLines:
    """Lines at the cursor that may still change. The cursor rests after the last of them."""

    def __init__(self, out: TextIO, size: Size) -> None:
        self._out, self._size = out, size
        self._drawn: list[str] = []

    @property
    def most(self) -> int:
        """How many lines may be kept changeable on this screen."""
        return max(1, self._size()[1] - 1)

    def update(self, lines: Sequence[str]) -> None:
        """Show `lines`, each no wider than the screen, in place of those shown. Those that do not
        fit on the screen scroll away and are done with: `lines` then begin after them."""
        old, new = self._drawn, list(lines)
        same = _common(old, new)
        if same == len(old) == len(new):
            return
        if same == len(new) and new:
            new.append("")  # lines were taken away: the cursor is on an empty one after the rest
        text = self._growth(old, new, same)
        if text is None:
            begin = self._back_to(old, same)
            text = f"{_BEGIN}{begin}{chr(10).join(new[same:])}{_END}"
        self._out.write(text)
        self._out.flush()
        self._drawn = new

    def settle(self, n: int) -> None:
        """Let the first `n` lines stand as they are. After the last, a new line begins."""
        if n >= len(self._drawn):
            if self._drawn and self._drawn[-1]:
                self._out.write("\n")
                self._out.flush()
            self._drawn = []
        else:
            self._drawn = self._drawn[n:]

    def _growth(self, old: list[str], new: list[str], same: int) -> str | None:
        """What to write where lines only grew at their end, the usual case; else None."""
        if old and same == len(old) - 1 and len(new) > same and new[same].startswith(old[same]):
            grown = new[same][len(old[same]) :]
            if self._rows(old[same]) == 1:
                return "\n".join([grown, *new[same + 1 :]])
        if old and same == len(old):
            return "\n" + "\n".join(new[same:])
        return None

    def _back_to(self, old: list[str], same: int) -> str:
        """Codes that move to the beginning of line `same` and clear from there on."""
        if not old:
            return ""
        if same == len(old):
            return "\n"
        rows = sum(self._rows(line) for line in old[same:]) - 1
        up = f"\x1b[{rows}A" if rows else ""
        return f"{up}\r\x1b[J"

    def _rows(self, line: str) -> int:
        """Rows of the screen that a line drawn earlier takes now: narrowed, terminals wrap it."""
        columns = max(1, self._size()[0])
        return max(1, -(-width(line) // columns))


def width(line: str) -> int:
    """Cells of a line with colour codes in it."""
    return cells(_CODES.sub("", line))


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    n = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        n += 1
    return n
