"""Arrays: the items that stand first, and those that follow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from localllm.grammars.nodes import EMPTY, NEVER, Node, alt, seq
from localllm.grammars.shape import Shape

if TYPE_CHECKING:
    from localllm.grammars.schema import Compiler


def array_node(compiler: Compiler, shape: Shape) -> Node:
    """The items at places of their own, each only behind the one before, then the others."""
    if shape.prefix and shape.items is None:
        most = min(len(shape.prefix), math.inf if shape.most_items is None else shape.most_items)
        last: int | None = int(most)
    else:
        last = shape.most_items
    width = len(shape.prefix) if last is None else min(len(shape.prefix), last)
    comma = seq(",", compiler.space)
    rest: Node = EMPTY
    if last is None or last > width:
        item = compiler.value(shape.items or (), "item")
        least, most_more = (
            max(0, shape.least_items - width),
            None if last is None else last - width,
        )
        if width:
            rest = compiler.grammar.times(seq(comma, item), least, most_more)
        else:
            rest = compiler.listed(item, comma, least, most_more)
    elif shape.least_items > width:
        return NEVER
    for n in reversed(range(width)):
        here = seq(comma if n else EMPTY, compiler.value(shape.prefix[n], "item"), rest)
        rest = here if n < shape.least_items else alt(EMPTY, here)
    return seq("[", compiler.space, rest, compiler.space, "]")
