"""What one rendering of an untrusted template may spend, in one unit for time and memory."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

MAX_SECONDS = 5.0
STEP = 32  # units that a loop step or a call costs
ELEMENT = 16  # units that a list's place costs; a character costs 1
_UNITS = 32 << 20  # about a million steps
_UNITS_PER_INPUT_CHAR = 64

_MAX_INT_BITS = 4096
_WIDE = re.compile(r"[0-9]{4,}|\*|\{[^{}]*\{")  # a width in a format string that we refuse
_STRIP = frozenset(["strip", "lstrip", "rstrip", "trim"])


class OverBudget(Exception):
    """The template does more work than any honest one."""


class Budget:
    """Every operation pays for what it makes, before it makes it where it multiplies."""

    def __init__(self, input_chars: int) -> None:
        self._units = _UNITS + _UNITS_PER_INPUT_CHAR * input_chars
        self._deadline = time.monotonic() + MAX_SECONDS

    def pay(self, units: int) -> None:
        self._units -= units
        if self._units < 0:
            raise OverBudget("it makes too much text or takes too many steps")
        if time.monotonic() > self._deadline:
            raise OverBudget(f"it runs longer than {MAX_SECONDS:.0f} s")

    def pay_written(self, value: Any) -> None:
        """Pay for `value` as text, giving up once that is too long."""
        if isinstance(value, str):
            self.pay(len(value))
        elif isinstance(value, Mapping):
            for key, item in value.items():
                self.pay(ELEMENT)
                self.pay_written(key)
                self.pay_written(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                self.pay(ELEMENT)
                self.pay_written(item)
        else:
            self.pay(ELEMENT)

    def pay_held(self, value: Any) -> None:
        """Pay for a new value as it lies in memory."""
        if isinstance(value, str):
            self.pay(len(value))
        elif isinstance(value, (list, tuple)):
            self.pay(ELEMENT * len(value))

    def pay_operator(self, operator: str, left: Any, right: Any) -> None:
        """For `+ * ** %`."""
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() + right.bit_length()
            if operator == "**":
                bits = left.bit_length() * max(right, 1)
            if operator in ("*", "**") and bits > _MAX_INT_BITS:
                raise OverBudget("it computes with numbers of thousands of digits")
        elif operator == "+":
            self.pay_held(left)
            self.pay_held(right)
        elif operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, (str, list, tuple)) and isinstance(times, int):
                    each = 1 if isinstance(sequence, str) else ELEMENT
                    self.pay(each * len(sequence) * max(times, 0))
        elif operator == "%" and isinstance(left, str):
            check_format(left)
            self.pay(len(left))
            self.pay_written(right)

    def pay_method(self, text: str, name: str, arguments: tuple[Any, ...]) -> None:
        """For a method of `text` about to be called."""
        self.pay(len(text))
        if name == "replace" and len(arguments) >= 2:
            old, new = str(arguments[0]), str(arguments[1])
            self.pay(text.count(old) * len(new))
        elif name == "join" and arguments:
            self.pay_written(arguments[0])
            self.pay(len(text) * len(arguments[0]))
        elif name in _STRIP and arguments and isinstance(arguments[0], str):
            # strip(chars) looks through chars for each character that it takes away
            self.pay(len(arguments[0]) * 64 if len(arguments[0]) < 1024 else _UNITS)

    def counted(self, items: Iterable[Any], chars: int = 0) -> Iterator[Any]:
        """`items`, each paying for a step and for the `chars` that its loop body writes."""
        for item in items:
            self.pay(STEP + chars)
            yield item


def check_format(text: str) -> None:
    """Refuse widths that make a long text of a short one ("%9999999999d")."""
    if _WIDE.search(text):
        raise OverBudget("it formats with a huge or computed width")


current: ContextVar[Budget] = ContextVar("current")
