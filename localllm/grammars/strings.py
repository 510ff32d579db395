"""JSON strings as grammars: free ones, of a length, of a pattern, other than given ones.

Lengths count characters as JSON Schema does: a pair of surrogate escapes is one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from localllm.grammars.automaton import Automaton, automaton
from localllm.grammars.gbnf import Grammar
from localllm.grammars.nodes import (
    EMPTY,
    NEVER,
    Alt,
    Chars,
    Node,
    Ref,
    Repeat,
    Text,
    alt,
    chars,
    seq,
)
from localllm.grammars.patterns import (
    All,
    CharSet,
    Choice,
    Concat,
    Either,
    Language,
    Pattern,
    Times,
    complement,
    has,
)

_HEX = chars("0-9A-Fa-f")
_PLAIN = Chars(complement(((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C))).ranges)
_SHORT = {0x22: '\\"', 0x5C: "\\\\", 8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}
_ESCAPED = alt(
    chars('"\\/bfnrt'),
    # \uXXXX: what is no surrogate, or a high one with its low one
    seq("u", alt(
        seq(chars("0-9A-CE-Fa-ce-f"), _HEX, _HEX, _HEX),
        seq(chars("Dd"), chars("0-7"), _HEX, _HEX),
        seq(chars("Dd"), chars("89ABab"), _HEX, _HEX, "\\u", chars("Dd"), chars("C-Fc-f"),
            _HEX, _HEX),
    )),
)  # fmt: skip


def char(grammar: Grammar) -> Node:
    """One character as it stands in a JSON string."""
    return grammar.share("char", alt(_PLAIN, seq("\\", _ESCAPED)))


def string(grammar: Grammar, least: int = 0, most: int | None = None) -> Node:
    """A string of `least` to `most` characters."""
    if (least, most) == (0, None):
        return grammar.share("string", seq('"', Repeat(char(grammar), 0, None), '"'))
    return seq('"', grammar.times(char(grammar), least, most), '"')


def literal(text: str) -> str:
    """`text` as JSON; characters as they are, unless they are half a surrogate pair."""
    whole = all(not 0xD800 <= ord(c) <= 0xDFFF for c in text)
    return json.dumps(text, ensure_ascii=not whole)


def of_pattern(grammar: Grammar, language: Language) -> Node:
    """Strings of `language`. Raises UsageProblem where several patterns are too much together."""
    if isinstance(language, All | Either):
        node = _states(grammar, automaton(language), lambda chars: _one_of(grammar, chars))
    else:
        node = _matching(grammar, language)
    return seq('"', node, '"')


def _states(grammar: Grammar, found: Automaton, letter: Callable[[CharSet], Node]) -> Node:
    """An automaton as rules, one a state; `letter` writes one character of a set."""
    names = [grammar.reserve("state") for _ in found.ends]
    for name, steps, end in zip(names, found.steps, found.ends, strict=True):
        options: list[Node] = [EMPTY] if end else []
        for target, wanted in steps.items():
            last = found.ends[target] and not found.steps[target]
            options.append(seq(letter(wanted), EMPTY if last else Ref(names[target])))
        grammar.rules[name] = alt(*options)
    return Ref(names[0]) if names else NEVER


def _matching(grammar: Grammar, pattern: Pattern) -> Node:
    match pattern:
        case CharSet():
            return _one_of(grammar, pattern)
        case Concat():
            return seq(*(_matching(grammar, part) for part in pattern.parts))
        case Choice():
            return alt(*(_matching(grammar, option) for option in pattern.options))
        case Times():
            node = _matching(grammar, pattern.item)
            if node == EMPTY:
                return EMPTY
            if isinstance(node, Alt):
                node = grammar.share("choice", node)
            return grammar.times(node, pattern.least, pattern.most)


def _one_of(grammar: Grammar, wanted: CharSet) -> Node:
    """A character of the set, escaped where JSON wants it."""
    plain = tuple(_overlap(wanted, _PLAIN.ranges))
    options: list[Node] = [Chars(plain)] if plain else []
    inside = [c for c in (*range(0x20), 0x22, 0x5C) if has(wanted, c)]
    options += [Text(_SHORT[code]) for code in inside if code in _SHORT]
    for tens in (0, 1):
        ones = [code & 15 for code in inside if code not in _SHORT and code >> 4 == tens]
        if ones:
            options.append(seq(f"\\u00{tens}", chars("".join(f"{n:x}" for n in ones))))
    if not options:
        return NEVER
    if len(plain) == 1 and plain[0][0] == plain[0][1] and len(options) == 1:
        return Text(chr(plain[0][0]))
    node = alt(*options)
    return grammar.share("class", node) if isinstance(node, Alt) else node


def _overlap(wanted: CharSet, ranges: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    for low, high in ranges:
        for first, last in wanted.ranges:
            if max(low, first) <= min(high, last):
                yield max(low, first), min(high, last)


def plain(grammar: Grammar, pattern: Language, stop: str) -> Node:
    """What `pattern` matches, as it is and not as JSON; never the character `stop`. Raises
    UsageProblem where several patterns are too much together."""
    match pattern:
        case All() | Either():
            return _states(grammar, automaton(pattern), lambda c: plain(grammar, c, stop))
        case CharSet():
            kept = tuple(_overlap(pattern, complement(((ord(stop), ord(stop)),)).ranges))
            return Chars(kept) if kept else NEVER
        case Concat():
            return seq(*(plain(grammar, part, stop) for part in pattern.parts))
        case Choice():
            return alt(*(plain(grammar, option, stop) for option in pattern.options))
        case Times():
            node = plain(grammar, pattern.item, stop)
            if isinstance(node, Alt):
                node = grammar.share("choice", node)
            return grammar.times(node, pattern.least, pattern.most)


def other_than(grammar: Grammar, taken: Iterable[str]) -> Node:
    """A string that is none of `taken`.

    Without \\uXXXX, or one of them could be spelled another way.
    """
    units = [_units(text) for text in dict.fromkeys(taken)]
    return seq('"', _differs(grammar, tuple(units)), '"')


def _units(text: str) -> tuple[str, ...]:
    """How each character of `text` stands in a JSON string."""
    return tuple(_SHORT.get(ord(c)) or (c if c >= " " else f"\\u{ord(c):04x}") for c in text)


def _simple(grammar: Grammar) -> Node:
    return grammar.share("plain", alt(_PLAIN, seq("\\", chars('"\\bfnrt'))))


def _differs(grammar: Grammar, taken: tuple[tuple[str, ...], ...]) -> Node:
    """What may follow in a string so that it is none of `taken`, of which these are the rests."""
    heads = dict.fromkeys(rest[0] for rest in taken if rest)
    options: list[Node] = [] if () in taken else [EMPTY]
    for head in heads:
        rests = tuple(rest[1:] for rest in taken if rest and rest[0] == head)
        options.append(seq(head, grammar.share("not", _differs(grammar, rests))))
    single = [ord(head) for head in heads if len(head) == 1]
    others: list[Node] = []
    plain = tuple(_overlap(complement(tuple(sorted((c, c) for c in single))), _PLAIN.ranges))
    others.append(Chars(plain))
    others += [Text(e) for e in _SHORT.values() if e not in heads]
    options.append(seq(alt(*others), Repeat(_simple(grammar), 0, None)))
    return alt(*options)


def one_of_texts(grammar: Grammar, texts: Iterable[str]) -> Node:
    """One of `texts`, factored by what they begin with: a choice of thousands costs llama.cpp
    a pass over the vocabulary for each that may still come."""
    return _factored(grammar, sorted(set(texts)), 0)


def _factored(grammar: Grammar, texts: list[str], depth: int) -> Node:
    if len(texts) <= 8 or depth > 100:
        return alt(*texts)
    options: list[Node] = []
    groups: dict[str, list[str]] = {}
    for text in texts:
        groups.setdefault(text[:1], []).append(text)
    for group in groups.values():
        common = _common(group)
        if len(group) == 1:
            options.append(Text(group[0]))
        elif not common:  # empty texts
            options.append(EMPTY)
        else:
            rest = _factored(grammar, [text[len(common) :] for text in group], depth + 1)
            options.append(seq(common, grammar.share("rest", rest)))
    return alt(*options)


def _common(group: list[str]) -> str:
    """What the sorted texts all begin with."""
    first, last = group[0], group[-1]
    n = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return first[:n] if n is not None else min(first, last, key=len)


def without(grammar: Grammar, end: str) -> Node:
    """Any text that does not hold `end` (Knuth, Morris and Pratt's automaton as rules)."""
    names = [grammar.reserve("until") for _ in end]
    for state, name in enumerate(names):
        targets: dict[int, list[str]] = {}
        for head in dict.fromkeys(end):
            targets.setdefault(_fallback(end, end[:state] + head), []).append(head)
        options: list[Node] = [EMPTY]
        for target, heads in targets.items():
            if 0 < target < len(end):
                options.append(seq(alt(*heads), Ref(names[target])))
        onward = [c for t, heads in targets.items() if t > 0 for c in heads]
        rest = complement(tuple(sorted((ord(c), ord(c)) for c in onward)))
        options.append(seq(Chars(rest.ranges), Ref(names[0])))
        grammar.rules[name] = alt(*options)
    return Ref(names[0])


def _fallback(end: str, read: str) -> int:
    """The longest beginning of `end` that `read` ends with."""
    return next(n for n in range(min(len(read), len(end)), -1, -1) if read.endswith(end[:n]))
