"""A text whose words say how much they weigh: in colour on a terminal, with signs elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from localllm.ui.cells import clean

_STRONG = 0.5  # of the heaviest: drawn bold


@dataclass(frozen=True)
class Mark:
    """`text[start:end]` weighs `amount`: above 0 for what `up` says, below for `down`."""

    start: int
    end: int
    amount: float


@dataclass(frozen=True)
class Marked:
    """`up` and `down` say in a word or two what weighs for and against."""

    text: str
    marks: Sequence[Mark]
    up: str
    down: str


def clean_lines(text: str) -> str:
    """As long as `text`, without control characters but line ends: prompts come from anywhere, and
    a terminal obeys what it is sent."""
    return "\n".join(clean(line) for line in text.split("\n"))


def pieces(part: Marked) -> Iterator[tuple[str, float]]:
    """The text in order, with weights from -1 to 1 of the heaviest; 0 where nothing is marked.
    Marks that overlap one before them are left out."""
    text = clean_lines(part.text)
    most = max((abs(mark.amount) for mark in part.marks), default=0.0) or 1.0
    done = 0
    for mark in sorted(part.marks, key=lambda m: (m.start, m.end)):
        if mark.start < done or mark.end > len(text) or not mark.amount:
            continue
        if text[done : mark.start]:
            yield text[done : mark.start], 0.0
        yield text[mark.start : mark.end], mark.amount / most
        done = mark.end
    if text[done:]:
        yield text[done:], 0.0


def plain_text(part: Marked) -> str:
    """`[+word]` weighs up, `[-word]` down, doubled where it weighs heavily."""
    found = []
    for text, weight in pieces(part):
        if not weight:
            found.append(text)
            continue
        sign = "+" if weight > 0 else "-"
        found.append(f"[{sign * (2 if abs(weight) >= _STRONG else 1)}{text}]")
    return "".join(found)


def style_of(weight: float) -> str:
    """rich's style of a piece."""
    if not weight:
        return ""
    colour = "green" if weight > 0 else "magenta"
    return f"bold {colour}" if abs(weight) >= _STRONG else colour
