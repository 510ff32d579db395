"""What a placeholder looks like, and every way a model writes it back.

We write `<EMAIL_1>`. Models answer with `<email_1>`, `< EMAIL 1 >`, `\\<EMAIL\\_1\\>` in
Markdown, `&lt;EMAIL_1&gt;` in HTML, `\\u003cEMAIL_1\\u003e` in JSON, `＜EMAIL_1＞` in Japanese
and, without brackets, EMAIL_1. In brackets case and spacing are free; without them the name
must be written exactly, because `email_1` is a fine name for a variable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from localllm.privacy.finding import Kind

LITERAL = "TEXT"  # stands for text that looked like a placeholder before we masked anything
LONGEST = 72  # characters that a placeholder can take in any of its spellings

_OPEN = ("<", "＜", "〈", "&lt;", r"\<", r"\u003c")
_CLOSE = (">", "＞", "〉", "&gt;", r"\>", r"\u003e")
_GAP = r"(?:\\?[_ ＿\-]){0,2}"
_SPACE = "[ \u3000]{0,2}"
_NUMBER = "[0-9０-９]{1,6}"


@dataclass(frozen=True)
class Key:
    """A placeholder: `<NAME_number>`, or `<NAME_numberb>` for a second spelling of a value."""

    name: str
    number: int
    letter: str = ""

    def __str__(self) -> str:
        return f"<{self.name}_{self.number}{self.letter}>"


class Spellings:
    """Patterns for the placeholders of these names: whole, and cut off at the end."""

    def __init__(self, names: Iterable[str]) -> None:
        names = sorted(names, key=len, reverse=True)  # MY_NUMBER before a name it ends with
        self._names = {re.sub("_", "", name): name for name in names}
        brackets = _bracketed(names)
        bare = "|".join(_bare(name) for name in names)
        edge = "(?<![A-Za-z0-9_])"
        self._final = re.compile(rf"{brackets}|{edge}(?:{bare})(?![A-Za-z0-9_])")
        # while more may come, the character after a bare name decides whether it has ended
        self._open_ended = re.compile(rf"{brackets}|{edge}(?:{bare})(?=[^A-Za-z0-9_])")
        starts = [_beginnings(_steps_in_brackets(name)) for name in names]
        cut = [_beginnings(_steps_bare(name)) for name in names]
        opening = "|".join(_beginnings([re.escape(c) for c in form]) for form in _OPEN)
        opened = "|".join(re.escape(form) for form in _OPEN)
        self._beginning = re.compile(
            rf"(?:{opening})\Z|(?:{opened})(?i:{'|'.join(starts)}|\Z)|{edge}(?:{'|'.join(cut)})"
        )

    def search(self, text: str, start: int, final: bool) -> re.Match[str] | None:
        """The next whole placeholder; `final` says that nothing follows `text`."""
        return (self._final if final else self._open_ended).search(text, start)

    def beginning(self, text: str, start: int) -> int:
        """Where a placeholder may begin that the end of `text` cuts off; its length if none."""
        found = self._beginning.search(text, max(start, len(text) - LONGEST))
        return found.start() if found else len(text)

    def key(self, found: re.Match[str]) -> Key:
        groups = [g for g in found.groups() if g is not None]
        name, number, letter = groups
        return Key(self._names[re.sub("[^A-Z]", "", name.upper())], int(number), letter.lower())


def _bracketed(names: list[str]) -> str:
    words = "|".join(_GAP.join(name.split("_")) for name in names)
    name = rf"{_SPACE}({words}){_GAP}({_NUMBER})([a-z]?){_SPACE}"
    # a pair of a kind: a backslash of the text before our own `<` must not be taken with it
    pairs = (re.escape(o) + name + re.escape(c) for o, c in zip(_OPEN, _CLOSE, strict=True))
    return f"(?i:{'|'.join(pairs)})"


def _bare(name: str) -> str:
    return rf"({_underscores(name)})\\?_([0-9]{{1,6}})([b-z]?)"


def _underscores(name: str) -> str:
    return r"\\?_".join(name.split("_"))


def _steps_in_brackets(name: str) -> list[str]:
    """The pieces of a spelling, one after another; each may be the last before the cut."""
    steps = [_SPACE]
    for n, word in enumerate(name.split("_")):
        steps += ([r"\\?", _GAP] if n else []) + list(word)
    steps += [_GAP, r"\\?", _NUMBER, "[a-z]?", _SPACE]
    closing = "|".join(
        _beginnings([re.escape(c) for c in form[:-1]]) for form in _CLOSE if form[1:]
    )
    return [*steps, rf"(?:{closing})\Z"]


def _steps_bare(name: str) -> list[str]:
    steps: list[str] = []
    for n, word in enumerate(name.split("_")):
        steps += ([r"\\?", "_"] if n else []) + list(word)
    return [*steps, r"\\?", "_", "[0-9]{1,6}", r"[b-z]?\Z"]


def _beginnings(steps: list[str]) -> str:
    r"""A pattern for every beginning of the steps that reaches the end of the text."""
    pattern = rf"(?:{steps[-1]})" if steps[-1].endswith(r"\Z") else rf"{steps[-1]}\Z"
    for step in reversed(steps[:-1]):
        pattern = rf"{step}(?:{pattern}|\Z)"
    return pattern


ALL = (*(kind.name for kind in Kind), LITERAL)
