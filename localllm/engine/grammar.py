"""Check a GBNF grammar before llama.cpp sees it.

llama.cpp's own parser prints its errors straight to stderr, recurses as deep as the text
nests, and loops for ever on a repetition like {3,1}. This one accepts the same language
(src/llama-grammar.cpp), with bounds, and names the line of a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

from localllm.errors import UsageProblem

_MAX_CHARS = 1 << 18
_MAX_DEPTH = 200
_MAX_RULES = 20_000  # the left-recursion check in C recurses once per rule
_MAX_REPETITION = 2000  # MAX_REPETITION_THRESHOLD

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9-]+")
_INT = re.compile(r"[0-9]+")
_ESCAPE = re.compile(
    r'\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[trn\\"\[\]-])', re.DOTALL
)
_COUNTS = re.compile(r"\{ *([0-9]+) *(,?) *([0-9]*) *\}")


def check_grammar(text: str, token_id: Callable[[str], int | None]) -> None:
    """Raise UsageProblem, with the line, if `text` is no grammar that llama.cpp takes.

    `token_id` gives the id of a token written as "<|im_end|>", None if it is not one token.
    """
    if len(text) > _MAX_CHARS:
        raise UsageProblem(f"the grammar has {len(text)} characters; at most {_MAX_CHARS}")
    if "\0" in text:
        raise UsageProblem("the grammar holds a NUL character")
    _Parser(text, token_id).grammar()


class _Parser:
    def __init__(self, text: str, token_id: Callable[[str], int | None]) -> None:
        self.text, self.at, self.depth = text, 0, 0
        self.token_id = token_id
        self.defined: set[str] = set()
        self.used: dict[str, int] = {}  # name -> where first used
        self.n_symbols = 0

    def grammar(self) -> None:
        self.skip(_SPACE_LINES)
        while self.at < len(self.text):
            self.rule()
        for name, at in self.used.items():
            if name not in self.defined:
                self.fail(f"rule {name!r} is used but not defined", at)
        if "root" not in self.defined:
            raise UsageProblem("the grammar defines no rule 'root'")

    def rule(self) -> None:
        name = self.take(_NAME, "a rule name")
        if name not in self.defined and name not in self.used:
            self.symbol()
        self.defined.add(name)
        self.skip(_SPACE)
        if not self.text.startswith("::=", self.at):
            self.fail("expected ::= after the rule's name")
        self.at += 3
        self.skip(_SPACE_LINES)
        self.alternates(nested=False)
        if self.at < len(self.text) and self.text[self.at] not in "\r\n":
            self.fail("expected a new line or the end")
        self.skip(_SPACE_LINES)

    def alternates(self, *, nested: bool) -> None:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            self.fail(f"groups nest deeper than {_MAX_DEPTH}")
        self.sequence(nested)
        while self.peek() == "|":
            self.at += 1
            self.skip(_SPACE_LINES)
            self.sequence(nested)
        self.depth -= 1

    def sequence(self, nested: bool) -> None:
        space = _SPACE_LINES if nested else _SPACE
        n_rules = 0  # rules that a repetition would copy; 0 = nothing to repeat
        while True:
            char = self.peek()
            if char == '"':
                n_rules = self.quoted('"')
            elif char == "[":
                n_rules = self.char_class()
            elif char in ("<", "!"):
                n_rules = self.token()
            elif char == "(":
                n_rules = self.group()
            elif char == ".":
                self.at += 1
                n_rules = 1
            elif char in ("*", "+", "?", "{"):
                n_rules = self.repetition(n_rules)
            elif char and _NAME.match(char):
                self.used.setdefault(name := self.take(_NAME, "a name"), self.at - len(name))
                n_rules = 1
            else:
                return
            self.skip(space)

    def quoted(self, end: str) -> int:
        """A literal or the inside of a class, from its opening mark; 0 if it is empty."""
        self.at += 1
        start = self.at
        while self.peek() != end:
            self.character()
        self.at += 1
        return int(self.at - 1 > start)

    def char_class(self) -> int:
        if self.text.startswith("[^", self.at):
            self.at += 1
        return self.quoted("]")

    def character(self) -> None:
        if self.at >= len(self.text):
            self.fail("unexpected end")
        if self.text[self.at] != "\\":
            self.at += 1
            return
        self.take(_ESCAPE, r"an escape like \n or \x41")

    def token(self) -> int:
        self.at += self.peek() == "!"
        end = self.text.find(">", self.at)
        if self.peek() != "<" or end < 0:
            self.fail("expected a token like <|im_end|>")
        word = self.text[self.at : end + 1]
        if self.token_id(word) is None:
            self.fail(f"{word!r} is no single token of this model")
        self.at = end + 1
        return 1

    def group(self) -> int:
        self.at += 1
        self.skip(_SPACE_LINES)
        before = self.n_symbols
        self.symbol()
        self.alternates(nested=True)
        if self.peek() != ")":
            self.fail("expected )")
        self.at += 1
        return max(1, self.n_symbols - before)

    def repetition(self, n_rules: int) -> int:
        if n_rules == 0:
            self.fail("nothing in front to repeat")
        least, most = self.counts()
        if most is not None and most < least:
            self.fail(f"a repetition of {least} to {most}")
        total = most or least or 1
        if least > _MAX_REPETITION or n_rules * total > _MAX_REPETITION:
            self.fail(f"repeats more than {_MAX_REPETITION} rules; use * or fewer repetitions")
        for _ in range(1 if most is None else most - least):
            self.symbol()
        return n_rules * total

    def counts(self) -> tuple[int, int | None]:
        """Least and most of the repetition mark here; most None = without limit."""
        char = self.peek()
        if char != "{":
            self.at += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        match = _COUNTS.match(self.text, self.at)
        if match is None or (match[3] and not match[2]) or len(match[0]) > 40:
            self.fail("expected a repetition like {2}, {2,} or {2,5}")
        self.at = match.end()
        least = int(match[1])
        most = int(match[3]) if match[3] else (None if match[2] else least)
        return least, None if most is not None and most > _MAX_REPETITION else most

    def symbol(self) -> None:
        self.n_symbols += 1
        if self.n_symbols > _MAX_RULES:
            self.fail(f"the grammar makes more than {_MAX_RULES} rules")

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def skip(self, space: re.Pattern[str]) -> None:
        match = space.match(self.text, self.at)
        assert match is not None  # it matches the empty string
        self.at = match.end()

    def take(self, pattern: re.Pattern[str], what: str) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            self.fail(f"expected {what}")
        self.at = match.end()
        return match[0]

    def fail(self, why: str, at: int | None = None) -> NoReturn:
        line = self.text.count("\n", 0, self.at if at is None else at) + 1
        raise UsageProblem(f"grammar line {line}: {why}")
