"""Whether a grammar may be read in so many ways that to follow them all would take for ever.

llama.cpp follows every way in which a text could be read, each token again. Of `("a"?){1000}`
the text `aaaa` has 41 billion, and one such request would hold up a model for everyone. Counted
here is what makes their number grow: how many neighbours that may all be left out begin alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from localllm.errors import UsageProblem

# What one that may be left out weighs: of several characters (its second tells it from others),
# of a single one, and one that may come again and again.
_LONG, _SHORT, _AGAIN = 1, 4, 16
_MOST = 80
_MOST_NESTED = 200
_OTHER = 128  # the bit of all characters beyond ASCII
_ALL = (1 << (_OTHER + 1)) - 1

_TOKEN = re.compile(
    r"""(?P<space>[ \t]+|\#[^\r\n]*)|(?P<line>[\r\n]+)|(?P<rule>[A-Za-z0-9-]+(?=[ \t]*::=))
    |(?P<is>::=)|(?P<name>[A-Za-z0-9-]+)|(?P<text>"(?:\\.|[^"\\])*")|(?P<chars>\[(?:\\.|[^\]\\])*\])
    |(?P<any>\.)|(?P<token>!?<[^>]*>)|(?P<open>\()|(?P<close>\))|(?P<or>\|)
    |(?P<times>[*+?]|\{[ ]*[0-9]+[ ]*,?[ ]*[0-9]*[ ]*\})""",
    re.VERBOSE | re.DOTALL,
)
_ONE = re.compile(r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)|[^\\]", re.DOTALL)
_NAMED = {"n": 10, "r": 13, "t": 9}

Weights = Mapping[int, int]  # mask of the characters that something begins with -> its weight


@dataclass(frozen=True)
class _Item:
    """`lead`: what may begin here; `trail`: what may still come when the next one begins."""

    empty: bool = False
    single: bool = False  # a text of it may be one character long
    lead: Weights = field(default_factory=dict)
    trail: Weights = field(default_factory=dict)


def check_ways(text: str) -> None:
    """Raise UsageProblem for a grammar of too many ways. What is no grammar is let pass: who
    reads it says so in better words."""
    tokens = [(str(m.lastgroup), m[0]) for m in _TOKEN.finditer(text) if m.lastgroup != "space"]
    rules: dict[str, list[tuple[str, str]]] = {}
    body: list[tuple[str, str]] = []
    for kind, word in tokens:
        if kind == "rule":
            body = rules.setdefault(word, [])
        elif kind not in ("is", "line"):
            body.append((kind, word))
    walk = _Walk(rules)
    for name in rules:
        walk.rule(name)


class _Walk:
    def __init__(self, rules: Mapping[str, list[tuple[str, str]]]) -> None:
        self._rules = rules
        self._known: dict[str, _Item] = {}
        self._depth = 0

    def rule(self, name: str) -> _Item:
        if name not in self._known:
            self._known[name] = _Item()  # a rule within itself begins with a character before it
            self._known[name] = self._choice(iter(self._rules.get(name, ())))
        return self._known[name]

    def _choice(self, tokens: Iterator[tuple[str, str]]) -> _Item:
        """One or the other, up to the closing bracket."""
        self._depth += 1
        if self._depth > _MOST_NESTED:
            raise UsageProblem(f"the grammar's rules and groups nest deeper than {_MOST_NESTED}")
        found: list[_Item] = []
        items: list[_Item] = []
        for kind, word in tokens:
            if kind == "close":
                break
            if kind == "or":
                found.append(_in_turn(items))
                items = []
            elif kind == "times" and items:
                items[-1] = _times(items[-1], word)
            elif kind == "open":
                items.append(self._choice(tokens))
            else:
                items.append(self._one(kind, word))
        found.append(_in_turn(items))
        self._depth -= 1
        empty, single = any(one.empty for one in found), any(one.single for one in found)
        lead = _most(*(one.lead for one in found))
        if empty and single:  # as with a question mark
            lead = {mask: max(weight, _SHORT) for mask, weight in lead.items()}
        return _Item(empty, single, lead, _most(*(one.trail for one in found)))

    def _one(self, kind: str, word: str) -> _Item:
        if kind == "name":
            return self.rule(word)
        if kind == "text":
            characters = _ONE.findall(word[1:-1])
            if not characters:
                return _Item(empty=True)
            return _Item(single=len(characters) == 1, lead={_bit(characters[0]): 1})
        mask = _class(word[1:-1]) if kind == "chars" else _ALL
        return _Item(single=kind != "token", lead={mask: 1} if kind != "token" else {})


def _in_turn(items: list[_Item]) -> _Item:
    lead: Weights | None = None
    run: Weights = {}
    n_needed = sum(not one.empty for one in items)
    for one in items:
        if one.empty:
            run = _sum(run, one.lead)
            _check(run)
            run = _most(run, one.trail)  # left out, or begun and not ended
            continue
        reached = _sum(run, one.lead)
        _check(reached)
        lead = reached if lead is None else lead
        run = one.trail
    single = n_needed == 0 or (n_needed == 1 and any(o.single for o in items if not o.empty))
    return _Item(lead is None, single, run if lead is None else lead, run)


def _times(one: _Item, mark: str) -> _Item:
    least, most = _counts(mark)
    alone = _SHORT if most == 1 else _AGAIN
    weight = alone if one.single else _LONG if most == 1 else 2 * _LONG
    lead = dict.fromkeys(one.lead, weight)
    if one.empty:
        copies = min(most if most is not None else max(least, 2), _MOST)
        lead = {mask: max(w, weight) * copies for mask, w in one.lead.items()}
        _check(lead)
        return _Item(True, one.single, lead, {})
    trail = one.trail if most == least else _sum(one.trail, lead)
    _check(trail)
    return _Item(least == 0, one.single, lead if least == 0 else one.lead, trail)


def _counts(mark: str) -> tuple[int, int | None]:
    if mark[0] != "{":
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[mark]
    least, comma, most = re.fullmatch(r"\{ *(\d+) *(,?) *(\d*) *\}", mark).groups()  # type: ignore[union-attr]
    low = int(least[:9])
    return low, int(most[:9]) if most else None if comma else low


def _sum(first: Weights, *given: Weights) -> Weights:
    found = dict(first)
    for one in given:
        for mask, weight in one.items():
            found[mask] = min(found.get(mask, 0) + weight, _MOST + 1)
    return found


def _most(first: Weights, *given: Weights) -> Weights:
    found = dict(first)
    for one in given:
        for mask, weight in one.items():
            found[mask] = max(found.get(mask, 0), weight)
    return found


def _check(run: Weights) -> None:
    if sum(run.values()) <= _MOST:
        return
    for bit in range(_OTHER + 1):
        if sum(weight for mask, weight in run.items() if mask >> bit & 1) > _MOST:
            raise UsageProblem(
                "the grammar can be read in too many ways: too many parts that may be left out "
                "follow each other and begin alike; use x* or x{0,5} for x? x? x? ..."
            )


def _bit(character: str) -> int:
    return 1 << min(_code(character), _OTHER)


def _code(character: str) -> int:
    if character[0] != "\\" or len(character) == 1:
        return ord(character)
    if character[1] in "xuU" and len(character) > 2:
        return int(character[2:], 16)
    return _NAMED.get(character[1], ord(character[1]))


def _class(inside: str) -> int:
    negated = inside.startswith("^")
    characters = _ONE.findall(inside[negated:])
    mask, at = 0, 0
    while at < len(characters):
        low = high = min(_code(characters[at]), _OTHER)
        if at + 2 < len(characters) and characters[at + 1] == "-":
            high = max(low, min(_code(characters[at + 2]), _OTHER))
            at += 2
        mask |= (1 << (high + 1)) - (1 << low)
        at += 1
    return (_ALL & ~mask) | (1 << _OTHER) if negated else mask
