"""JSON numbers as grammars: integers and decimals within bounds.

Bounded numbers are written plainly, without an exponent; no number is written -0 then.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from localllm.grammars.gbnf import Grammar
from localllm.grammars.nodes import (
    EMPTY,
    NEVER,
    Node,
    Repeat,
    Text,
    alt,
    chars,
    optional,
    seq,
)

MAX_DIGITS = 20  # of the integral part, and of the fraction: all of int64, uint64 and doubles
MAX_BOUND_DIGITS = 40
_EXACT_DIGITS = 15  # of a decimal that every double tells from its neighbours
_DIGIT, _FIRST = chars("0-9"), chars("1-9")


@dataclass(frozen=True)
class Bound:
    """A limit that the number may reach, unless `strict`."""

    value: Decimal
    strict: bool = False


def integer(grammar: Grammar, low: int | None = None, high: int | None = None) -> Node:
    """Integers from `low` to `high`, both included; None = no limit."""
    if low is None and high is None:
        node = alt("0", seq(optional("-"), _FIRST, Repeat(_DIGIT, 0, MAX_DIGITS - 1)))
        return grammar.share("integer", node)
    options: list[Node] = []
    if low is None or low < 0:
        down_to = None if low is None else -low
        up_to = 1 if high is None or high >= 0 else -high
        options.append(seq("-", _natural(up_to, down_to)))
    if high is None or high >= 0:
        options.append(_natural(max(0, low or 0), high))
    return alt(*options)


def _natural(low: int, high: int | None) -> Node:
    """Integers from `low` (0 or more) to `high` (None = so many digits)."""
    if high is not None and high < low:
        return NEVER
    first, n = str(low), len(str(low))
    last_n = max(n, MAX_DIGITS) if high is None else len(str(high))
    options: list[Node] = []
    for digits in range(n, last_n + 1):
        if high is None and digits > n:
            options.append(seq(_FIRST, Repeat(_DIGIT, digits - 1, last_n - 1)))
            break
        start = first if digits == n else "1" + "0" * (digits - 1)
        end = str(high) if high is not None and digits == last_n else "9" * digits
        options.append(_between(start, end))
    return alt(*options)


def _between(low: str, high: str) -> Node:
    """Digits from `low` to `high`, which are of the same length."""
    if not low:
        return EMPTY
    if low[0] == high[0]:
        return seq(low[0], _between(low[1:], high[1:]))
    n = len(low) - 1
    first, last = int(low[0]), int(high[0])
    options: list[Node] = []
    if low[1:] != "0" * n:
        options.append(seq(low[0], _between(low[1:], "9" * n)))
        first += 1
    if high[1:] != "9" * n:
        options.append(seq(high[0], _between("0" * n, high[1:])))
        last -= 1
    if first <= last:
        options.append(seq(_digit(first, last), Repeat(_DIGIT, n, n) if n else EMPTY))
    return alt(*options)


def _digit(first: int, last: int) -> Node:
    return Text(str(first)) if first == last else chars(f"{first}-{last}")


def number(grammar: Grammar, low: Bound | None = None, high: Bound | None = None) -> Node:
    """Numbers between `low` and `high`; without limits also with an exponent, and never so
    large that a double does not hold them."""
    if low is None and high is None:
        return _free(grammar)
    plain = _Decimals(_precision(low, high))
    options: list[Node] = []
    zero = Bound(Decimal(0), strict=True)
    if low is None or low.value < 0:
        down = None if low is None else Bound(-low.value, low.strict)
        up = zero if high is None or high.value >= 0 else Bound(-high.value, high.strict)
        options.append(seq("-", plain.positive(up, down)))
    if high is None or high.value >= 0:
        start = low if low is not None and low.value >= 0 else Bound(Decimal(0))
        options.append(plain.positive(start, high))
    return alt(*options)


def _free(grammar: Grammar) -> Node:
    fraction = optional(seq(".", Repeat(_DIGIT, 1, MAX_DIGITS)))
    whole = alt("0", seq(_FIRST, Repeat(_DIGIT, 0, MAX_DIGITS - 1)))
    power = alt(Repeat(_DIGIT, 1, 2), seq(chars("12"), _DIGIT, _DIGIT), seq("30", chars("0-7")))
    sign = alt("+", "-")
    scientific = seq(_DIGIT, fraction, chars("Ee"), optional(sign), power)
    return grammar.share("number", seq(optional("-"), alt(seq(whole, fraction), scientific)))


def _precision(*bounds: Bound | None) -> int:
    """Digits after the point: not so many that a reader's double rounds to a strict bound."""
    found = MAX_DIGITS
    for bound in bounds:
        if bound is not None and bound.strict and bound.value != 0:
            whole, fraction = _split(abs(bound.value))
            found = min(found, max(len(fraction), _EXACT_DIGITS - len(str(whole)), 1))
    return found


def _split(value: Decimal) -> tuple[int, str]:
    """The integral part, and the digits after the point without zeros at their end."""
    whole, _, fraction = f"{value:f}".partition(".")
    return int(whole), fraction.rstrip("0")


class _Decimals:
    """Numbers of 0 or more with at most `digits` after the point.

    A fraction may be left out, and one that ends early has zeros there.
    """

    def __init__(self, digits: int) -> None:
        self.any = Repeat(_DIGIT, 0, digits)
        self.some = Repeat(_DIGIT, 1, digits)
        self.zeros = Repeat(Text("0"), 0, digits)
        self.some_zeros = Repeat(Text("0"), 1, digits)
        self.fraction = optional(seq(".", self.some))

    def positive(self, low: Bound, high: Bound | None) -> Node:
        """From `low` to `high`."""
        if high is not None and (
            high.value < low.value or (high.value == low.value and (low.strict or high.strict))
        ):
            return NEVER
        floor, above = _split(low.value)
        if high is None:
            return alt(
                seq(str(floor), self.at_least(above, low.strict)),
                seq(_natural(floor + 1, None), self.fraction),
            )
        ceiling, below = _split(high.value)
        if floor == ceiling:
            return seq(str(floor), self.within(above, low.strict, below, high.strict))
        return alt(
            seq(str(floor), self.at_least(above, low.strict)),
            seq(_natural(floor + 1, ceiling - 1), self.fraction),
            seq(str(ceiling), self.at_most(below, high.strict)),
        )

    # Fractions with their point, or none at all.

    def at_least(self, digits: str, strict: bool) -> Node:
        if not digits and not strict:
            return self.fraction
        return seq(".", self.more(digits, strict))

    def at_most(self, digits: str, strict: bool) -> Node:
        if not digits:
            return NEVER if strict else optional(seq(".", self.some_zeros))
        return optional(seq(".", self.less(digits, strict)))

    def within(self, low: str, low_strict: bool, high: str, high_strict: bool) -> Node:
        none = EMPTY if not low and not low_strict else NEVER  # no fraction at all is .0
        width = max(len(low), len(high))
        both = self.both(low.ljust(width, "0"), low_strict, high.ljust(width, "0"), high_strict)
        return alt(none, seq(".", both))

    # The digits after the point.

    def more(self, digits: str, strict: bool) -> Node:
        """At least `digits`, or more than they are."""
        if not digits.strip("0"):
            return seq(self.zeros, _FIRST, self.any) if strict else self.some
        first, rest = int(digits[0]), digits[1:]
        higher = [seq(_digit(first + 1, 9), self.any)] if first < 9 else []
        return alt(*higher, seq(digits[0], self._rest_more(rest, strict)))

    def _rest_more(self, rest: str, strict: bool) -> Node:
        return self.any if not rest.strip("0") and not strict else self.more(rest, strict)

    def less(self, digits: str, strict: bool) -> Node:
        """At most `digits`, or less; one digit at least."""
        if not digits.strip("0"):
            return NEVER if strict else self.some_zeros
        first, rest = int(digits[0]), digits[1:]
        lower = [seq(_digit(0, first - 1), self.any)] if first > 0 else []
        return alt(*lower, seq(digits[0], self._rest_less(rest, strict)))

    def _rest_less(self, rest: str, strict: bool) -> Node:
        if not rest.strip("0"):
            return NEVER if strict else self.zeros
        return alt(EMPTY, self.less(rest, strict))

    def both(self, low: str, low_strict: bool, high: str, high_strict: bool) -> Node:
        """From `low` to `high`, which are of the same length."""
        if not low:
            return NEVER if low_strict or high_strict else self.some_zeros
        if not low.strip("0") and not low_strict:
            return self.less(high, high_strict)
        first, last = int(low[0]), int(high[0])
        if first == last:
            ends = EMPTY if not low[1:].strip("0") and not low_strict else NEVER
            if not high[1:].strip("0") and high_strict:
                ends = NEVER
            rest = self.both(low[1:], low_strict, high[1:], high_strict)
            return seq(low[0], alt(ends, rest))
        middle = [seq(_digit(first + 1, last - 1), self.any)] if last - first > 1 else []
        return alt(
            seq(low[0], self._rest_more(low[1:], low_strict)),
            *middle,
            seq(high[0], self._rest_less(high[1:], high_strict)),
        )
