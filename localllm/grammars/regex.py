"""Regular expressions of JSON Schema: ECMA-262's, without back references. Look-ahead is taken at
the beginning of what is anchored there (`^(?!\\.)(?=.*\\d)`), where it is one more pattern.
"""

from __future__ import annotations

import re
from typing import NoReturn

from localllm.errors import UsageProblem
from localllm.grammars.nodes import (
    Ranges,
)
from localllm.grammars.patterns import (
    ANY,
    BLANK,
    DIGIT,
    DOT,
    LAST_CHAR,
    SPACES,
    SURROGATES,
    WORD,
    All,
    CharSet,
    Choice,
    Either,
    Language,
    Pattern,
    Times,
    charset,
    complement,
    concat,
    times,
)  # fmt: skip

MAX_PATTERN = 4000  # characters
_MAX_DEPTH = 60
_MAX_COUNT = 100_000
_CLASSES: dict[str, CharSet] = {
    "d": CharSet(DIGIT), "D": complement(DIGIT),
    "w": CharSet(WORD), "W": complement(WORD),
    "s": CharSet(BLANK), "S": complement(SPACES),
}  # fmt: skip
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_COUNT = re.compile(r"\{(\d{1,12})(?:(,)(\d{1,12})?)?\}")
_HEX = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\}")
_ANYTHING = Times(ANY, 0, None)
_NAMED = re.compile(r"\?(?::|<[A-Za-z_$][\w$]*>)")


def parse(text: str) -> Language:
    """The pattern that `text` finds somewhere in a string, with what may stand around it.

    Raises UsageProblem for what is no regular expression or cannot be one of a grammar.
    """
    if len(text) > MAX_PATTERN:
        raise UsageProblem(f"the pattern has {len(text)} characters, at most {MAX_PATTERN}")
    parser = _Parser(text)
    tree = parser.whole()
    if parser.at < len(text):
        parser.fail("an unmatched )")
    return tree


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0

    def whole(self, *, anchored: bool = False) -> Language:
        """Alternatives to the end or to a ). Each may be anchored, and what is not anchored may
        have anything in front or after it. `anchored`: all of them begin where this does."""
        options = [self.alternative(anchored)]
        while self.peek() == "|":
            self.at += 1
            options.append(self.alternative(anchored))
        if len(options) == 1:
            return options[0]
        found = tuple(dict.fromkeys(options))
        plain = tuple(o for o in found if not isinstance(o, All | Either))
        return Choice(plain) if len(plain) == len(found) else Either(found)

    def choice(self) -> Pattern:
        """Alternatives within a group, up to its )."""
        options = [self.sequence()]
        while self.peek() == "|":
            self.at += 1
            options.append(self.sequence())
        return options[0] if len(options) == 1 else Choice(tuple(dict.fromkeys(options)))

    def alternative(self, anchored: bool) -> Language:
        begins = anchored
        while self.peek() == "^":
            self.at, begins = self.at + 1, True
        if not begins and (whole := self.grouped()) is not None:
            return whole
        wanted: list[Language] = []
        unwanted: list[Language] = []
        while begins and (mark := self.text[self.at : self.at + 3]) in ("(?=", "(?!"):
            (wanted if mark == "(?=" else unwanted).append(self.look_ahead())
        pattern, ends = self.sequence(), False
        while self.peek() == "$":
            self.at, ends = self.at + 1, True
        if ends and self.peek() not in ("", "|", ")"):
            self.fail("$ before the end")
        before, after = [] if begins else [_ANYTHING], [] if ends else [_ANYTHING]
        pattern = concat(*before, pattern, *after)
        return All((pattern, *wanted), tuple(unwanted)) if wanted or unwanted else pattern

    def look_ahead(self) -> Language:
        self.at += 3
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            self.fail(f"groups deeper than {_MAX_DEPTH}")
        inner = self.whole(anchored=True)
        if self.peek() != ")":
            self.fail("a group without its )")
        self.at += 1
        self.depth -= 1
        return inner

    def sequence(self) -> Pattern:
        """What stands one after another, up to a | or ), or to a $."""
        parts: list[Pattern] = []
        while self.peek() not in ("", "|", ")", "$"):
            parts.append(self.repeated(self.atom()))
        return concat(*parts)

    def grouped(self) -> Language | None:
        """`(^a$|^b$)` alone: the anchors in a group that is everything count too."""
        match = re.match(r"\((?:\?:)?(?=\^)", self.text[self.at :])
        if match is None or self.depth:
            return None
        start, self.at = self.at, self.at + match.end()
        self.depth += 1
        inner = self.whole()
        self.depth -= 1
        if self.peek() == ")" and self.text[self.at + 1 : self.at + 2] in ("", "|"):
            self.at += 1
            return inner
        self.at = start
        return None

    def atom(self) -> Pattern:
        char = self.text[self.at]
        self.at += 1
        if char == "(":
            return self.group()
        if char == "[":
            return self.set()
        if char == ".":
            return DOT
        if char == "\\":
            return self.escape()
        if char in "*+?":
            self.fail("nothing to repeat")
        if char in "^$":
            self.fail(f"{char} inside the pattern")
        return CharSet(((ord(char), ord(char)),))

    def group(self) -> Pattern:
        match = _NAMED.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
        elif self.peek() == "?":
            self.fail("look-around that is not at the beginning, or flags: it cannot be enforced")
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            self.fail(f"groups deeper than {_MAX_DEPTH}")
        inner = self.choice()
        if self.peek() == "$":
            self.fail("$ inside the pattern")
        if self.peek() != ")":
            self.fail("a group without its )")
        self.at += 1
        self.depth -= 1
        return inner

    def repeated(self, item: Pattern) -> Pattern:
        while (char := self.peek()) and char in "*+?{":
            if char == "{":
                match = _COUNT.match(self.text, self.at)
                if match is None:
                    self.fail("a { that counts nothing: write \\{")
                self.at = match.end()
                least = int(match[1])
                most = None if match[2] and not match[3] else int(match[3] or match[1])
            else:
                self.at += 1
                least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
            if max(least, most or 0) > _MAX_COUNT or (most is not None and most < least):
                self.fail("a count out of range")
            if self.peek() == "?":  # lazy: the same texts match
                self.at += 1
            item = times(item, least, most)
        return item

    def escape(self) -> CharSet:
        char = self.peek()
        if not char:
            self.fail("a backslash at the end")
        if (match := _HEX.match(self.text, self.at)) is not None:
            self.at = match.end()
            return self.code(int(match[1] or match[2] or match[3], 16))
        self.at += 1
        if char in _CLASSES:
            return _CLASSES[char]
        if char in _CONTROLS and not self.peek().isdigit():
            return self.code(_CONTROLS[char])
        if char.isalnum():
            what = "a back reference" if char.isdigit() else f"\\{char}"
            self.fail(f"{what}, which a grammar cannot enforce")
        return self.code(ord(char))

    def code(self, code: int) -> CharSet:
        """One character; two escapes of surrogates are one character beyond U+FFFF."""
        if 0xD800 <= code < 0xDC00:
            match = re.compile(r"\\u([dD][c-fC-F][0-9A-Fa-f]{2})").match(self.text, self.at)
            if match is not None:
                self.at = match.end()
                code = 0x10000 + ((code - 0xD800) << 10) + int(match[1], 16) - 0xDC00
        if code > LAST_CHAR or SURROGATES[0] <= code <= SURROGATES[1]:
            self.fail("an escape that is no character")
        return CharSet(((code, code),))

    def set(self) -> CharSet:
        negated = self.peek() == "^"
        self.at += negated
        ranges: list[tuple[int, int]] = []
        while (char := self.peek()) != "]":
            if not char:
                self.fail("a [ without its ]")
            first = self.member()
            if self.peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                last = self.member()
                if len(first) != 1 or len(last) != 1 or first[0][0] > last[0][0]:
                    self.fail("a range out of order")
                ranges.append((first[0][0], last[0][1]))
            else:
                ranges += first
        self.at += 1
        made = charset(ranges)
        return complement(made.ranges) if negated else made

    def member(self) -> Ranges:
        char = self.peek()
        self.at += 1
        if char != "\\":
            return ((ord(char), ord(char)),)
        if self.peek() == "b":
            self.at += 1
            return ((8, 8),)
        return self.escape().ranges

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def fail(self, why: str) -> NoReturn:
        raise UsageProblem(f"the pattern {_short(self.text)} has {why} (at {self.at})")


def _short(text: str) -> str:
    return repr(text) if len(text) <= 60 else repr(text[:57] + "...")
