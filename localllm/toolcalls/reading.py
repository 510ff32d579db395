"""Reading a call out of text that is still arriving.

A reader is a generator: it yields where it needs more text, returns what it found, and raises
NoCall where the text turns out to be no call. Each character is looked at a bounded number of
times, however small the pieces are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Sequence
from typing import Any, TypeVar

from localllm.toolcalls.calls import Found

T = TypeVar("T")
Reading = Generator[None, None, T]

_SPACE = re.compile(r"[ \t\r\n]*")
_JSON_MARK = re.compile(r'["{}\[\]]')
_STRING_MARK = re.compile(r'["\\]')
_NAME = re.compile(r"[A-Za-z0-9_.\-:/]+")
_MAX_NAME = 256
_MAX_DEPTH = 100
MAX_CALL = 4 << 20  # characters of one region: an answer is never so long


class NoCall(Exception):
    """What looked like a call is text."""


class Source:
    """The text so far, and whether more may come."""

    def __init__(self) -> None:
        self.text = ""
        self.final = False


class Attempt:
    """A place in the text that reading goes on from."""

    def __init__(self, source: Source, at: int) -> None:
        self.source, self.at, self._begun = source, at, at
        self.thinking: bool | None = None  # whether the text after it is, where that is known

    @property
    def text(self) -> str:
        return self.source.text

    def more(self) -> Reading[None]:
        """Wait for more text. Raises NoCall where none will come."""
        if self.source.final or len(self.text) - self._begun > MAX_CALL:
            raise NoCall
        yield

    def literal(self, wanted: str) -> Reading[None]:
        if not (yield from self.has(wanted)):
            raise NoCall

    def has(self, wanted: str) -> Reading[bool]:
        """Whether `wanted` comes next; if so it is passed."""
        while True:
            there = self.text[self.at : self.at + len(wanted)]
            if there == wanted:
                self.at += len(wanted)
                return True
            if not wanted.startswith(there) or self.source.final:
                return False
            yield from self.more()

    def one_of(self, wanted: Sequence[str]) -> Reading[str | None]:
        """Which of `wanted` comes next, the longest first; None if none does."""
        for text in sorted(wanted, key=len, reverse=True):
            if (yield from self.has(text)):
                return text
        return None

    def space(self) -> Reading[None]:
        """Pass white space, as far as there is any."""
        while True:
            match = _SPACE.match(self.text, self.at)
            assert match is not None  # it matches the empty text
            self.at = match.end()
            if self.at < len(self.text) or self.source.final:
                return
            yield

    def until(self, wanted: str) -> Reading[str]:
        """The text up to `wanted`, which is passed."""
        start = looked = self.at
        while (end := self.text.find(wanted, looked)) < 0:
            looked = max(start, len(self.text) - len(wanted) + 1)
            yield from self.more()
        self.at = end + len(wanted)
        return self.text[start:end]

    def name(self) -> Reading[str]:
        """A function's name."""
        start = self.at
        while True:
            match = _NAME.match(self.text, start)
            end = match.end() if match else start
            if end - start > _MAX_NAME:
                raise NoCall
            if end < len(self.text) or self.source.final:
                break
            yield
        if end == start:
            raise NoCall
        self.at = end
        return self.text[start:end]

    def json(self) -> Reading[str]:
        """An object or an array, exactly as it is written. NoCall where it is no valid JSON."""
        start = self.at
        while start >= len(self.text):
            yield from self.more()
        if self.text[start] not in "{[":
            raise NoCall
        end = yield from self._closing(start)
        written = self.text[start:end]
        parse(written)
        self.at = end
        return written

    def _closing(self, start: int) -> Reading[int]:
        """Where the bracket that opens at `start` is closed."""
        at, depth, inside = start, 0, False
        while True:
            match = (_STRING_MARK if inside else _JSON_MARK).search(self.text, at)
            if match is None:
                at = len(self.text)
                yield from self.more()
                continue
            at = match.end()
            char = match[0]
            if char == "\\":
                while at >= len(self.text):
                    yield from self.more()
                at += 1
            elif char == '"':
                inside = not inside
            elif char in "{[":
                depth += 1
                if depth > _MAX_DEPTH:
                    raise NoCall
            else:
                depth -= 1
                if depth == 0:
                    return at


def parse(written: str) -> Any:
    """JSON by the letter: no NaN, no control characters in strings. Raises NoCall."""
    try:
        return json.loads(written, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise NoCall from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def members(written: str) -> dict[str, str]:
    """The members of a valid JSON object, each value as it is written. Of a name that comes
    twice the last one counts, as for every JSON reader."""
    found: dict[str, str] = {}
    at = _after_space(written, 1)
    while written[at] == '"':
        key, at = _DECODER.raw_decode(written, at)
        start = _after_space(written, _after_space(written, at) + 1)
        _, at = _DECODER.raw_decode(written, start)
        found[key] = written[start:at]
        at = _after_space(written, at)
        if written[at] == ",":
            at = _after_space(written, at + 1)
    return found


def elements(written: str) -> list[str]:
    """The elements of a valid JSON array, each as it is written."""
    found: list[str] = []
    at = _after_space(written, 1)
    while written[at] != "]":
        start = at
        _, at = _DECODER.raw_decode(written, start)
        found.append(written[start:at])
        at = _after_space(written, at)
        if written[at] == ",":
            at = _after_space(written, at + 1)
    return found


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def call_of(
    written: str, name_keys: Sequence[str], argument_keys: Sequence[str], id_keys: Sequence[str]
) -> Found:
    """A call written as one JSON object. Raises NoCall where it has no name or no arguments that
    are an object."""
    if not written.startswith("{"):
        raise NoCall
    values = members(written)
    name = next((parse(values[k]) for k in name_keys if k in values), None)
    arguments = next((values[k] for k in argument_keys if k in values), None)
    known = {*name_keys, *argument_keys, *id_keys, "type"}
    if not isinstance(name, str) or not name or set(values) - known:
        raise NoCall
    call_id = next((parse(values[k]) for k in id_keys if k in values), None)
    return Found(name, as_object(arguments or "{}"), str(call_id) if call_id is not None else None)


def as_object(written: str) -> str:
    """Arguments as an object; some models write it as a string that holds one."""
    value = parse(written)
    if isinstance(value, str):
        written = value.strip()
        value = parse(written)
    if not isinstance(value, dict):
        raise NoCall
    return written
