"""JSON objects as grammars: properties in their order, required or not, counted, and others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localllm.grammars import strings
from localllm.grammars.document import refuse
from localllm.grammars.nodes import (
    EMPTY,
    NEVER,
    Node,
    Ref,
    alt,
    seq,
)
from localllm.grammars.shape import Places, Shape

if TYPE_CHECKING:
    from localllm.grammars.schema import Compiler

_MAX_STATES = 5000


def object_node(compiler: Compiler, shape: Shape, places: Places) -> Node:
    """An object of `shape`. From the last property to the first: for each number of properties
    written so far (as far as it matters), what may still come."""
    fixed = _fixed(compiler, shape)
    least, most = shape.least_properties, shape.most_properties
    cap = max(1, least) if most is None else most
    if len(fixed) * cap > _MAX_STATES:
        refuse(
            places[0] if places else "#", f"counting its properties makes over {_MAX_STATES} rules"
        )
    pair = _other_pair(compiler, shape, tuple(name for name, _ in fixed))
    after = [_end(compiler, pair, least, most, written) for written in range(cap + 1)]
    space = compiler.space
    for name, value in reversed(fixed):
        key = strings.literal(name)
        written_pair = seq(key, space, ":", space, value)
        before: list[Node] = []
        for written in range(cap + 1):
            full = most is not None and written + 1 > most
            following = after[min(written + 1, cap)]
            comma = seq(",", space) if written else EMPTY
            taken = NEVER if full else seq(comma, written_pair, following)
            if name in shape.required:
                before.append(taken)
            else:
                choice = alt(taken, after[written])
                before.append(compiler.grammar.share(f"{name}-or-rest", choice))
        after = before
    return seq("{", space, after[0], space, "}")


def _fixed(compiler: Compiler, shape: Shape) -> list[tuple[str, Ref]]:
    """Declared and required properties, with the rules of their values, in their order."""
    names = dict.fromkeys([*(n for n, _ in shape.properties), *shape.required])
    found: list[tuple[str, Ref]] = []
    for name in names:
        value = compiler.value(shape.member(name), name)
        if not compiler.shapes.fits(shape.names, name):
            value = compiler.grammar.share("never", NEVER)
        found.append((name, value))
    return found


def _other_pair(compiler: Compiler, shape: Shape, taken: tuple[str, ...]) -> Node | None:
    """A property that is not declared; None where there may be none."""
    if shape.is_closed or shape.most_properties == 0:
        return None
    if not compiler.shapes.of(shape.additional or ()):
        return None
    if shape.names:
        key = compiler.key(shape.names, taken)
    elif taken:
        key = compiler.grammar.share("other-key", strings.other_than(compiler.grammar, taken))
    else:
        key = strings.string(compiler.grammar)
    value = compiler.value(shape.additional or (), "other")
    return seq(key, compiler.space, ":", compiler.space, value)


def _end(compiler: Compiler, pair: Node | None, least: int, most: int | None, written: int) -> Node:
    """What may follow when `written` properties were written and no declared one is left.

    Names may repeat, and repeated ones count once: more than one needed cannot be had so.
    """
    needed = max(0, least - written)
    if pair is None or needed > 1 or (most is not None and written >= most):
        return EMPTY if needed == 0 else NEVER
    room = None if most is None else most - written
    comma = seq(",", compiler.space)
    if written:
        return compiler.grammar.times(seq(comma, pair), needed, room)
    return compiler.listed(pair, comma, needed, room)
