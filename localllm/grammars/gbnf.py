"""Grammars as values, and as GBNF text that llama.cpp takes.

A grammar is made of nodes (a text, a set of characters, a sequence, a choice, a repetition, the
name of a rule). What can never come to an end is taken out before the text is written: a rule
that only leads to itself would keep a model writing for ever.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from localllm.errors import UsageProblem
from localllm.grammars.nodes import (
    EMPTY,
    NEVER,
    Chars,
    Node,
    Ref,
    Repeat,
    can_end,
    names,
    pruned,
    seq,
)
from localllm.grammars.writer import Writer

# What llama.cpp's parser and the engine's check of it take (engine/grammar.py)
MAX_CHARS = 1 << 18
_MAX_SYMBOLS = 19_000
_CHUNK = 256  # repetitions of more than twice this are counted in chunks


class Grammar:
    """Rules by name, in the making."""

    def __init__(self) -> None:
        self.rules: dict[str, Node] = {}
        self._shared: dict[Node, str] = {}
        self._numbers: dict[str, int] = {}

    def reserve(self, hint: str) -> str:
        """A free rule name like `hint`, to be defined later."""
        base = re.sub(r"[^A-Za-z0-9]+", "-", hint).strip("-")[:40].rstrip("-") or "rule"
        name, number = base, self._numbers.get(base, 1)
        while name in self.rules or name == "root":
            number += 1
            name = f"{base}-{number}"
        self._numbers[base] = number
        self.rules[name] = NEVER
        if len(self.rules) > _MAX_SYMBOLS:
            raise too_large()
        return name

    def define(self, hint: str, node: Node) -> Ref:
        """A new rule called like `hint`."""
        name = self.reserve(hint)
        self.rules[name] = node
        return Ref(name)

    def share(self, hint: str, node: Node) -> Ref:
        """The rule for `node`, made once."""
        if isinstance(node, Ref):
            return node
        if node not in self._shared:
            self._shared[node] = self.define(hint, node).name
        return Ref(self._shared[node])

    def times(self, node: Node, least: int, most: int | None) -> Node:
        """`node` repeated, however often: large counts are made of counted chunks, because
        llama.cpp takes no repetition of more than 2000."""
        if most is not None and most < least:
            return NEVER
        unit = node if isinstance(node, Ref | Chars) else self.share("item", node)
        tail = Repeat(unit, 0, None) if most is None else self._up_to(unit, most - least)
        return seq(*self._exactly(unit, least), tail)

    def _exactly(self, unit: Node, count: int) -> Iterator[Node]:
        if count > 2 * _CHUNK:
            count, rest = count // _CHUNK, count % _CHUNK
            yield from self._exactly(self.share("many", Repeat(unit, _CHUNK, _CHUNK)), count)
            count = rest
        if count:
            yield Repeat(unit, count, count)

    def _up_to(self, unit: Node, count: int) -> Node:
        if count == 0:
            return EMPTY
        if count < 2 * _CHUNK:
            return Repeat(unit, 0, count)
        chunks, rest = count // _CHUNK, count % _CHUNK
        chunk = self.share("many", Repeat(unit, _CHUNK, _CHUNK))
        return seq(self._up_to(chunk, chunks - 1), Repeat(unit, 0, _CHUNK + rest))

    def text(self, root: Node) -> str:
        """The grammar as GBNF, its first rule `root`.

        Raises UsageProblem where nothing at all can be written by it, or it is too large.
        """
        productive = self._productive()
        start = pruned(root, productive)
        if start is None:
            raise UsageProblem("nothing satisfies this schema: no finite value does")
        rules: dict[str, Node] = {"root": start}
        waiting = list(names(start))
        while waiting:
            name = waiting.pop()
            if name not in rules:
                found = pruned(self.rules[name], productive)
                assert found is not None  # only what can end is referred to
                rules[name] = found
                waiting += names(found)
        writer = Writer()
        lines = [f"{name} ::= {writer.write(node)}" for name, node in rules.items()]
        text = "\n".join(lines) + "\n"
        if len(text) > MAX_CHARS or writer.symbols + len(rules) > _MAX_SYMBOLS:
            raise too_large()
        return text

    def _productive(self) -> set[str]:
        """Rules from which some finite text can be made."""
        users: dict[str, set[str]] = defaultdict(set)
        for name, node in self.rules.items():
            for used in names(node):
                users[used].add(name)
        found: set[str] = set()
        waiting = list(reversed(self.rules))
        while waiting:
            name = waiting.pop()
            if name not in found and can_end(self.rules[name], found):
                found.add(name)
                waiting += users[name] - found
        return found


def too_large() -> UsageProblem:
    return UsageProblem(
        f"the schema makes a grammar of more than {MAX_CHARS} characters or {_MAX_SYMBOLS} rules",
        "use fewer or shorter lists, lengths and alternatives",
    )
