"""Regular expressions as trees: matched against values, and turned into grammars.

Matching walks sets of positions, so no pattern takes exponential time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from localllm.grammars.nodes import (
    Ranges,
)

SURROGATES = (0xD800, 0xDFFF)
LAST_CHAR = 0x10FFFF


@dataclass(frozen=True)
class CharSet:
    ranges: Ranges


@dataclass(frozen=True)
class Concat:
    parts: tuple[Pattern, ...]


@dataclass(frozen=True)
class Choice:
    options: tuple[Pattern, ...]


@dataclass(frozen=True)
class Times:
    item: Pattern
    least: int
    most: int | None


Pattern = CharSet | Concat | Choice | Times


@dataclass(frozen=True)
class All:
    """Strings that all `parts` match whole, and none of `none`."""

    parts: tuple[Language, ...]
    none: tuple[Language, ...] = ()


@dataclass(frozen=True)
class Either:
    options: tuple[Language, ...]


Language = Pattern | All | Either


def charset(ranges: Iterable[tuple[int, int]]) -> CharSet:
    """The union of `ranges`, without surrogates, sorted and joined."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(_without_surrogates(ranges)):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    return CharSet(tuple(joined))


def _without_surrogates(ranges: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    for low, high in ranges:
        if low < SURROGATES[0]:
            yield low, min(high, SURROGATES[0] - 1)
        if high > SURROGATES[1]:
            yield max(low, SURROGATES[1] + 1), high


def complement(ranges: Ranges) -> CharSet:
    """Every character that is in none of the ascending `ranges`."""
    found, at = [], 0
    for low, high in ranges:
        if low > at:
            found.append((at, low - 1))
        at = max(at, high + 1)
    if at <= LAST_CHAR:
        found.append((at, LAST_CHAR))
    return charset(found)


def of_text(text: str) -> Ranges:
    return charset((ord(c), ord(c)) for c in text).ranges


DIGIT: Ranges = ((0x30, 0x39),)
WORD = charset([*DIGIT, (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]).ranges
BLANK = of_text(" \t\n\r\f\v")
# Everything that either ECMA-262 or Python takes for white space
SPACES = charset(
    [*BLANK, (0x1C, 0x1F), *of_text("\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff"),
     (0x2000, 0x200A)]
).ranges  # fmt: skip
ANY = CharSet(complement(()).ranges)
DOT = complement(of_text("\n\r\u2028\u2029"))


def concat(*parts: Pattern) -> Pattern:
    flat = [p for part in parts for p in (part.parts if isinstance(part, Concat) else (part,))]
    return flat[0] if len(flat) == 1 else Concat(tuple(flat))


def times(item: Pattern, least: int, most: int | None) -> Pattern:
    """`item` repeated. A repeated item is never empty: llama.cpp would recurse for ever."""
    if lengths(item)[0] == 0 and most != 1:
        item, least = _nonempty(item), 0
    return Times(item, least, most)


def _nonempty(item: Pattern) -> Pattern:
    """What `item` matches, but the empty text."""
    match item:
        case CharSet():
            return item
        case Choice():
            return Choice(tuple(dict.fromkeys(map(_nonempty, item.options))))
        case Times():
            inner = _nonempty(item.item)
            return Times(inner, max(1, item.least), item.most) if item.most != 0 else Choice(())
        case Concat():
            options = []
            for n, part in enumerate(item.parts):
                options.append(concat(_nonempty(part), *item.parts[n + 1 :]))
                if lengths(part)[0] > 0:
                    break
            return options[0] if len(options) == 1 else Choice(tuple(options))


def lengths(item: Pattern) -> tuple[int, int | None]:
    """Characters of the shortest and of the longest match; None = no limit."""
    match item:
        case CharSet():
            return 1, 1
        case Times():
            least, most = lengths(item.item)
            unlimited = item.most is None or most is None
            longest = 0 if most == 0 or item.most == 0 else None if unlimited else -1
            return least * item.least, (item.most or 0) * (most or 0) if longest == -1 else longest
        case Concat():
            pairs = [lengths(part) for part in item.parts]
            ends = [most for _, most in pairs]
            return sum(least for least, _ in pairs), None if None in ends else sum(
                most for most in ends if most is not None
            )
        case Choice():
            pairs = [lengths(part) for part in item.options] or [(0, 0)]
            ends = [most for _, most in pairs]
            return min(least for least, _ in pairs), None if None in ends else max(
                most for most in ends if most is not None
            )


def matches(item: Language, text: str) -> bool:
    """Whether `item` matches all of `text`."""
    match item:
        case All():
            return all(matches(part, text) for part in item.parts) and not any(
                matches(part, text) for part in item.none
            )
        case Either():
            return any(matches(option, text) for option in item.options)
        case _:
            return len(text) in _ends(item, text, frozenset([0]))


def _ends(item: Pattern, text: str, starts: frozenset[int]) -> frozenset[int]:
    match item:
        case CharSet():
            return frozenset(at + 1 for at in starts if at < len(text) and has(item, ord(text[at])))
        case Concat():
            for part in item.parts:
                starts = _ends(part, text, starts)
            return starts
        case Choice():
            return frozenset().union(*(_ends(option, text, starts) for option in item.options))
        case Times():
            found = starts if item.least == 0 else frozenset()
            count = 0
            while starts and (item.most is None or count < item.most):
                starts = _ends(item.item, text, starts)
                count += 1
                if count >= item.least:
                    if item.most is None:
                        starts -= found
                    found |= starts
            return found


def has(item: CharSet, code: int) -> bool:
    """Whether the character of this code point is of the set."""
    return any(low <= code <= high for low, high in item.ranges)
