"""Read a GBNF grammar.

llama.cpp's own parser prints its errors straight to stderr, recurses as deep as the text
nests, and loops for ever on a repetition like {3,1}. This one accepts the same language
(src/llama-grammar.cpp), with bounds, and names the line of a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

from localllm.engine.matching.rules import ANY, Element, Rules, TokenIs, ranges
from localllm.errors import UsageProblem

_MAX_CHARS = 1 << 18
_MAX_DEPTH = 200
_MAX_RULES = 20_000
_MAX_ELEMENTS = 500_000
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
    """Raise UsageProblem, with the line, if `text` is no grammar: see `read_grammar`."""
    read_grammar(text, token_id)


def read_grammar(text: str, token_id: Callable[[str], int | None]) -> Rules:
    """The rules of `text`. Raises UsageProblem, with the line, where it is no grammar.

    `token_id` gives the id of a token written as "<|im_end|>", None if it is not one token.
    """
    if len(text) > _MAX_CHARS:
        raise UsageProblem(f"the grammar has {len(text)} characters; at most {_MAX_CHARS}")
    if "\0" in text:
        raise UsageProblem("the grammar holds a NUL character")
    return _Parser(text, token_id).grammar()


class _Parser:
    def __init__(self, text: str, token_id: Callable[[str], int | None]) -> None:
        self.text, self.at, self.depth = text, 0, 0
        self.token_id = token_id
        self.numbers: dict[str, int] = {}
        self.used: dict[str, int] = {}  # name -> where first used
        self.rules: list[list[list[Element]] | None] = []
        self.n_elements = 0

    def grammar(self) -> Rules:
        self.skip(_SPACE_LINES)
        while self.at < len(self.text):
            self.rule()
        for name, at in self.used.items():
            if self.rules[self.numbers[name]] is None:
                self.fail(f"rule {name!r} is used but not defined", at)
        if self.rules and "root" in self.numbers:
            names = {number: name for name, number in self.numbers.items()}
            every = [names.get(number, "( )") for number in range(len(self.rules))]
            found = [one for one in self.rules if one is not None]
            return Rules(every, found, self.numbers["root"])
        raise UsageProblem("the grammar defines no rule 'root'")

    def rule(self) -> None:
        number = self.number(self.take(_NAME, "a rule name"))
        self.skip(_SPACE)
        if not self.text.startswith("::=", self.at):
            self.fail("expected ::= after the rule's name")
        self.at += 3
        self.skip(_SPACE_LINES)
        self.rules[number] = self.alternates(nested=False)
        if self.at < len(self.text) and self.text[self.at] not in "\r\n":
            self.fail("expected a new line or the end")
        self.skip(_SPACE_LINES)

    def number(self, name: str) -> int:
        if name not in self.numbers:
            self.numbers[name] = self.symbol()
        return self.numbers[name]

    def alternates(self, *, nested: bool) -> list[list[Element]]:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            self.fail(f"groups nest deeper than {_MAX_DEPTH}")
        found = [self.sequence(nested)]
        while self.peek() == "|":
            self.at += 1
            self.skip(_SPACE_LINES)
            found.append(self.sequence(nested))
        self.depth -= 1
        return found

    def sequence(self, nested: bool) -> list[Element]:
        space = _SPACE_LINES if nested else _SPACE
        found: list[Element] = []
        begins = 0  # of what a repetition would repeat
        n_rules = 0  # rules that it would copy; 0 = nothing to repeat
        while True:
            char = self.peek()
            if char in ("*", "+", "?", "{") and char:
                n_rules = self.repetition(found, begins, n_rules)
            else:
                begins, before = len(found), len(self.rules)
                if not self.item(char, found):
                    return found
                n_rules = max(1, len(self.rules) - before) if char == "(" else 1
                n_rules *= len(found) > begins
            self.skip(space)

    def item(self, char: str, found: list[Element]) -> bool:
        """Read one and put it behind `found`; False where there is none."""
        if char == '"':
            codes = self.quoted('"')
            found += [((code, code),) for code in codes]
            self.count(len(codes))
        elif char == "[":
            found += self.char_class()
        elif char in ("<", "!") and char:
            found.append(self.token())
        elif char == "(":
            found.append(self.group())
        elif char == ".":
            self.at += 1
            found.append(ANY)
        elif char and _NAME.match(char):
            name = self.take(_NAME, "a name")
            self.used.setdefault(name, self.at - len(name))
            found.append(self.number(name))
        else:
            return False
        return True

    def quoted(self, end: str) -> list[int]:
        """A literal, from its opening mark: its code points."""
        self.at += 1
        found = []
        while self.peek() != end:
            found.append(self.character())
        self.at += 1
        return found

    def char_class(self) -> list[Element]:
        """One element; none for [], which is the empty text."""
        self.at += 1
        negated = self.peek() == "^"
        self.at += negated
        pairs = []
        while self.peek() != "]":
            low = high = self.character()
            if self.peek() == "-" and self.text[self.at + 1 : self.at + 2] != "]":
                self.at += 1
                high = self.character()
            pairs.append((low, high))
        self.at += 1
        return [ranges(pairs, negated=negated)] if pairs else []

    def character(self) -> int:
        if self.at >= len(self.text):
            self.fail("unexpected end")
        if self.text[self.at] != "\\":
            self.at += 1
            code = ord(self.text[self.at - 1])
            return ord("?") if 0xD800 <= code < 0xE000 else code  # half of a surrogate pair
        escape = self.take(_ESCAPE, r"an escape like \n or \x41")
        if escape[1] in "xuU":
            return int(escape[2:], 16)
        return ord({"t": "\t", "r": "\r", "n": "\n"}.get(escape[1], escape[1]))

    def token(self) -> TokenIs:
        negated = self.peek() == "!"
        self.at += negated
        end = self.text.find(">", self.at)
        if self.peek() != "<" or end < 0:
            self.fail("expected a token like <|im_end|>")
        word = self.text[self.at : end + 1]
        token = self.token_id(word)
        if token is None:
            self.fail(f"{word!r} is no single token of this model")
        self.at = end + 1
        return TokenIs(token, negated)

    def group(self) -> int:
        self.at += 1
        self.skip(_SPACE_LINES)
        number = self.symbol()
        self.rules[number] = self.alternates(nested=True)
        if self.peek() != ")":
            self.fail("expected )")
        self.at += 1
        return number

    def repetition(self, found: list[Element], begins: int, n_rules: int) -> int:
        """Put what a repetition stands for in place of what it repeats."""
        if n_rules == 0:
            self.fail("nothing in front to repeat")
        least, most = self.counts()
        if most is not None and most < least:
            self.fail(f"a repetition of {least} to {most}")
        total = most or least or 1
        if least > _MAX_REPETITION or n_rules * total > _MAX_REPETITION:
            self.fail(f"repeats more than {_MAX_REPETITION} rules; use * or fewer repetitions")
        self.count(total)
        unit = found[begins:]
        if len(unit) > 1:  # by name: a long text would be copied two thousand times
            number = self.symbol()
            self.rules[number] = [unit]
            unit = [number]
        del found[begins:]
        found += unit * least
        if most is None:
            again = self.symbol()
            self.rules[again] = [[*unit, again], []]
            found.append(again)
        elif most > least:
            rest: list[Element] = []
            for _ in range(most - least):
                number = self.symbol()
                self.rules[number] = [[*unit, *rest], []]
                rest = [number]
            found += rest
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

    def symbol(self) -> int:
        """A new rule's number."""
        if len(self.rules) >= _MAX_RULES:
            self.fail(f"the grammar makes more than {_MAX_RULES} rules")
        self.rules.append(None)
        return len(self.rules) - 1

    def count(self, n: int) -> None:
        self.n_elements += n
        if self.n_elements > _MAX_ELEMENTS:
            self.fail(f"the grammar makes more than {_MAX_ELEMENTS} elements")

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
