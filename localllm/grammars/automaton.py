"""Strings that several patterns demand together, as a deterministic automaton.

A state is what may still follow, pattern by pattern (Antimirov, "Partial derivatives of regular
expressions and finite automaton constructions", 1996), so the automaton of all of them, and of
none of others, needs no construction of its own. States that no match can be reached from are left
out, and those with the same future are one (Moore).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from localllm.errors import UsageProblem
from localllm.grammars.patterns import (
    LAST_CHAR,
    All,
    CharSet,
    Choice,
    Concat,
    Either,
    Language,
    Pattern,
    Times,
    charset,
    concat,
    has,
)

_MAX_STATES = 3000  # looked at
_MAX_STEPS = 30_000  # from them
_MAX_WORK = 1_000_000  # rests put together: two seconds or so
_MAX_COMPARED = 50_000  # states, all rounds together: half a second
_END: Pattern = Concat(())

_State = tuple[frozenset[int], ...]  # of every leaf, the numbers of what may follow: one of them


@dataclass(frozen=True)
class Automaton:
    """Of each state the characters that lead on, by the state they lead to, and whether a match
    may end there. State 0 is the first. Without states nothing matches."""

    steps: tuple[Mapping[int, CharSet], ...]
    ends: tuple[bool, ...]


def automaton(language: Language) -> Automaton:
    """Raises UsageProblem where it would have thousands of states."""
    leaves = tuple(dict.fromkeys(_leaves(language)))
    number = {leaf: n for n, leaf in enumerate(leaves)}
    rests = _Rests(leaves)
    first: _State = tuple(frozenset([n]) for n in range(len(leaves)))
    states, found = {first: 0}, [first]
    steps: list[dict[int, list[tuple[int, int]]]] = []
    n_steps = 0
    for state in found:  # grows while it is gone through
        out: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for letter, chars in enumerate(rests.letters):
            target = tuple(rests.after(some, letter) for some in state)
            if not _holds(language, number, [bool(some) for some in target], unless=False):
                continue  # nothing that may follow makes a match of it
            if target not in states:
                states[target] = len(found)
                found.append(target)
            out[states[target]] += chars
        steps.append(out)
        n_steps += len(out)
        if len(found) > _MAX_STATES or n_steps > _MAX_STEPS:
            raise _too_much()
    ends = [
        _holds(language, number, [any(rests.may_end[n] for n in some) for some in state])
        for state in found
    ]
    return _smallest(steps, ends)


class _Rests:
    """What may follow, by number (the leaves' own come first): patterns are compared once."""

    def __init__(self, leaves: Sequence[Pattern]) -> None:
        self.letters = _letters(leaves)
        self.may_end: list[bool] = []
        self._number: dict[Pattern, int] = {}
        self._patterns: list[Pattern] = []
        self._known: dict[tuple[int, int], frozenset[int]] = {}
        self._work = 0
        for leaf in leaves:
            self._of(leaf)

    def after(self, some: frozenset[int], letter: int) -> frozenset[int]:
        """What may follow once `letter` was read where one of `some` was due."""
        self._work += len(some) + 1
        if self._work > _MAX_WORK:
            raise _too_much()
        return frozenset().union(*(self._after(n, letter) for n in some))

    def _after(self, n: int, letter: int) -> frozenset[int]:
        if (known := self._known.get((n, letter))) is None:
            code = self.letters[letter][0][0]
            found = dict.fromkeys(_after(self._patterns[n], code))
            known = self._known[n, letter] = frozenset(self._of(rest) for rest in found)
            self._work += 20
        return known

    def _of(self, pattern: Pattern) -> int:
        if pattern not in self._number:
            self._number[pattern] = len(self._patterns)
            self._patterns.append(pattern)
            self.may_end.append(_may_end(pattern))
        return self._number[pattern]


def _too_much() -> UsageProblem:
    return UsageProblem("patterns, formats and lengths of one string are too much together")


def _leaves(language: Language) -> Iterator[Pattern]:
    match language:
        case All():
            for part in (*language.parts, *language.none):
                yield from _leaves(part)
        case Either():
            for option in language.options:
                yield from _leaves(option)
        case _:
            yield language


def _holds(
    language: Language, number: Mapping[Pattern, int], matched: list[bool], unless: bool = True
) -> bool:
    """Whether a string is of the language, by which leaves it matches; without `unless`, whatever
    it matches of what it must not."""
    match language:
        case All():
            return all(_holds(part, number, matched, unless) for part in language.parts) and not (
                unless and any(_holds(part, number, matched) for part in language.none)
            )
        case Either():
            return any(_holds(option, number, matched, unless) for option in language.options)
        case _:
            return matched[number[language]]


def _letters(leaves: Iterable[Pattern]) -> list[list[tuple[int, int]]]:
    """All characters, apart where some set of the leaves tells them apart."""
    sets = list(dict.fromkeys(s for leaf in leaves for s in _sets(leaf)))
    cuts = sorted({0} | {edge for s in sets for low, high in s.ranges for edge in (low, high + 1)})
    parted: dict[tuple[bool, ...], list[tuple[int, int]]] = defaultdict(list)
    for low, after in zip(cuts, [*cuts[1:], LAST_CHAR + 1], strict=True):
        kept = charset([(low, after - 1)]).ranges if low < after else ()
        if kept:
            parted[tuple(has(s, kept[0][0]) for s in sets)] += kept
    return list(parted.values())


def _sets(pattern: Pattern) -> Iterator[CharSet]:
    match pattern:
        case CharSet():
            yield pattern
        case Concat():
            for part in pattern.parts:
                yield from _sets(part)
        case Choice():
            for option in pattern.options:
                yield from _sets(option)
        case Times():
            yield from _sets(pattern.item)


def _after(pattern: Pattern, code: int) -> Iterator[Pattern]:
    """The partial derivatives of `pattern` by a character."""
    match pattern:
        case CharSet():
            if has(pattern, code):
                yield _END
        case Choice():
            for option in pattern.options:
                yield from _after(option, code)
        case Concat():
            for n, part in enumerate(pattern.parts):
                for rest in _after(part, code):
                    yield concat(rest, *pattern.parts[n + 1 :])
                if not _may_end(part):
                    break
        case Times() if pattern.most != 0:
            most = None if pattern.most is None else pattern.most - 1
            again = Times(pattern.item, max(0, pattern.least - 1), most)
            for rest in _after(pattern.item, code):
                yield rest if most == 0 else concat(rest, again)


def _may_end(pattern: Pattern) -> bool:
    """Whether it matches the empty text."""
    match pattern:
        case CharSet():
            return False
        case Concat():
            return all(_may_end(part) for part in pattern.parts)
        case Choice():
            return any(_may_end(option) for option in pattern.options)
        case Times():
            return pattern.least == 0 or _may_end(pattern.item)


def _smallest(steps: list[dict[int, list[tuple[int, int]]]], ends: list[bool]) -> Automaton:
    alive = _reaching(steps, ends)
    if 0 not in alive:
        return Automaton((), ())
    kept = {
        n: {target: charset(chars) for target, chars in out.items() if target in alive}
        for n, out in enumerate(steps)
        if n in alive
    }
    merged = _merged(kept, ends)
    one_of = {merged[n]: n for n in reversed(kept)}
    order = range(len(one_of))
    return Automaton(
        tuple(_by_block(kept[one_of[b]], merged) for b in order),
        tuple(ends[one_of[b]] for b in order),
    )


def _merged(kept: Mapping[int, Mapping[int, CharSet]], ends: Sequence[bool]) -> dict[int, int]:
    """States with the same future under one number, 0 of the first; every state under its own,
    where there is too much to compare."""
    block, count = {n: int(ends[n]) for n in kept}, 0
    for _ in range(_MAX_COMPARED // len(kept)):
        futures: dict[tuple[int, frozenset[tuple[int, CharSet]]], int] = {}
        finer = {}
        for n, out in kept.items():  # the first comes first, and stays so
            future = block[n], frozenset(_by_block(out, block).items())
            finer[n] = futures.setdefault(future, len(futures))
        if len(futures) == count:
            return finer
        block, count = finer, len(futures)
    return {n: number for number, n in enumerate(kept)}


def _by_block(out: Mapping[int, CharSet], block: Mapping[int, int]) -> dict[int, CharSet]:
    joined: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for target, chars in out.items():
        joined[block[target]] += chars.ranges
    return {target: charset(ranges) for target, ranges in joined.items()}


def _reaching(steps: list[dict[int, list[tuple[int, int]]]], ends: list[bool]) -> set[int]:
    """The states from which a match can be reached."""
    before = defaultdict(list)
    for n, out in enumerate(steps):
        for target in out:
            before[target].append(n)
    waiting = [n for n, end in enumerate(ends) if end]
    found = set(waiting)
    while waiting:
        for n in before[waiting.pop()]:
            if n not in found:
                found.add(n)
                waiting.append(n)
    return found
