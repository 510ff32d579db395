"""The parts of a grammar as values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

Ranges = tuple[tuple[int, int], ...]  # code points, both ends included, ascending


@dataclass(frozen=True)
class Text:
    """These characters and no others."""

    text: str


@dataclass(frozen=True)
class Chars:
    """One character of these ranges."""

    ranges: Ranges


@dataclass(frozen=True)
class Ref:
    """What the rule of this name takes."""

    name: str


@dataclass(frozen=True)
class Seq:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Alt:
    """One of `options`; of no options nothing can be made."""

    options: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """`node` at least `least` times, and at most `most` (None = any number)."""

    node: Node
    least: int
    most: int | None


Node = Text | Chars | Ref | Seq | Alt | Repeat

EMPTY = Seq(())
NEVER = Alt(())


def seq(*parts: Node | str) -> Node:
    """Parts after one another; text may stand as it is. Neighbouring texts become one."""
    flat: list[Node] = []
    for part in parts:
        node = Text(part) if isinstance(part, str) else part
        for one in node.parts if isinstance(node, Seq) else (node,):
            last = flat[-1] if flat else None
            if isinstance(one, Text) and isinstance(last, Text):
                flat[-1] = Text(last.text + one.text)
            elif one != Text(""):
                flat.append(one)
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def alt(*options: Node | str) -> Node:
    """One of the options, each once."""
    nodes = [Text(o) if isinstance(o, str) else o for o in options]
    unique = dict.fromkeys(nodes)
    return next(iter(unique)) if len(unique) == 1 else Alt(tuple(unique))


def optional(node: Node | str) -> Node:
    return Repeat(Text(node) if isinstance(node, str) else node, 0, 1)


def chars(text: str) -> Chars:
    """One of the characters of `text`; `a-z` is a range."""
    pairs = re.findall(r"(.)-(.)|(.)", text, re.DOTALL)
    return Chars(tuple(sorted((ord(a or c), ord(b or c)) for a, b, c in pairs)))


def names(node: Node) -> Iterator[str]:
    match node:
        case Ref():
            yield node.name
        case Seq():
            for part in node.parts:
                yield from names(part)
        case Alt():
            for option in node.options:
                yield from names(option)
        case Repeat():
            yield from names(node.node)


def can_end(node: Node, known: set[str]) -> bool:
    match node:
        case Text():
            return True
        case Chars():
            return bool(node.ranges)
        case Ref():
            return node.name in known
        case Seq():
            return all(can_end(part, known) for part in node.parts)
        case Alt():
            return any(can_end(option, known) for option in node.options)
        case Repeat():
            return node.least == 0 or can_end(node.node, known)


def pruned(node: Node, known: set[str]) -> Node | None:
    """`node` without what never ends; None where nothing is left."""
    if not can_end(node, known):
        return None
    match node:
        case Alt():
            return alt(*(p for o in node.options if (p := pruned(o, known)) is not None))
        case Seq():
            return seq(*(p for o in node.parts if (p := pruned(o, known)) is not None))
        case Repeat():
            inner = pruned(node.node, known)
            return Repeat(inner, node.least, node.most) if inner not in (None, EMPTY) else EMPTY
    return node
