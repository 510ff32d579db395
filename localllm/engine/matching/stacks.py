"""All stacks that a text may have led to, as one graph."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from localllm.engine.matching.positions import Positions
from localllm.engine.matching.rules import TokenIs
from localllm.errors import UsageProblem

# Frames that one step may touch, of about half a microsecond each, and those kept in all, of
# about a hundred bytes. JSON schemas touch some hundreds.
STEP_WORK = 600_000
_MOST_KEPT = 1_500_000


class TooManyWays(UsageProblem):
    """What was read so far can be read in too many ways to go on."""


class Opened:
    """What may come next: a class of characters, a token by its number, the end."""

    __slots__ = ("ends", "narrow", "tokens", "wide")

    def __init__(self) -> None:
        self.ends = False
        self.narrow: dict[int, list[tuple[int, Stacks]]] = {}  # by the only class of a position
        self.wide: list[tuple[int, Stacks]] = []
        self.tokens: list[tuple[int, Stacks]] = []


class Stacks:
    """A set of stacks: the positions on top, and below each the set of what it stands on.

    There is one object for each set (`Machine` sees to it), so that equal ones are identical.
    """

    __slots__ = ("empty", "frames", "mask", "moves", "opened", "serial")

    def __init__(self, frames: tuple[tuple[int, Stacks], ...], empty: bool, serial: int) -> None:
        self.frames = frames
        self.empty = empty  # whether one of them is empty: the text is complete
        self.serial = serial
        self.moves: dict[int, Stacks | None] = {}  # by class of character
        self.opened: Opened | None = None
        self.mask: bytes | None = None  # the tokens that fit, a bit each; see Walker


class Machine:
    """One grammar at work. Not for two threads at once.

    Raises TooManyWays where a step exceeds its work: `begin_step` sets it back.
    """

    def __init__(self, positions: Positions) -> None:
        self.positions = positions
        self.n_kept = 0
        self._work = STEP_WORK
        self._known: dict[tuple[bool, tuple[tuple[int, int], ...]], Stacks] = {}
        nothing = self._stacks((), empty=True)
        rule = positions.root
        frames = [(start, nothing) for start in positions.starts[rule]]
        self.start = self._stacks(frames, empty=positions.nullable[rule])

    def begin_step(self, work: int = STEP_WORK) -> None:
        self._work = work

    def spend(self, amount: int) -> None:
        self._work -= amount
        if self._work < 0 or self.n_kept > _MOST_KEPT:
            raise TooManyWays(
                "the grammar can be read in too many ways here",
                "leave out alternatives that begin alike, or parts that may all be left out",
            )

    def move(self, stacks: Stacks, code_class: int) -> Stacks | None:
        """After one character more; None where none of its class fits."""
        try:
            return stacks.moves[code_class]
        except KeyError:
            pass
        opened, sets = self.open(stacks), self.positions.codes.sets
        found = list(opened.narrow.get(code_class, ()))
        found += [frame for frame in opened.wide if sets[frame[0]] >> code_class & 1]
        self.spend(1 + len(opened.wide))
        made = stacks.moves[code_class] = self._behind(found)
        return made

    def take_token(self, stacks: Stacks, token: int) -> Stacks | None:
        """After a token that the grammar names by its number; None where it names no such one."""
        elements = self.positions.elements
        found = []
        for frame in self.open(stacks).tokens:
            element = elements[frame[0]]
            assert isinstance(element, TokenIs)
            if (element.token == token) != element.negated:
                found.append(frame)
        return self._behind(found)

    def join(self, first: Stacks | None, second: Stacks | None) -> Stacks | None:
        """Both, as one set."""
        if first is None or second is None or first is second:
            return first or second
        return self._union((first, second))

    def _behind(self, frames: list[tuple[int, Stacks]]) -> Stacks | None:
        """What is there when these positions are done."""
        last = self.positions.last
        after = {(at + 1, rest) for at, rest in frames if not last[at]}
        done = [rest for at, rest in frames if last[at]]
        if not after and len(done) == 1:
            return done[0]
        for rest in done:
            after.update(rest.frames)
            self.spend(len(rest.frames))
        empty = any(rest.empty for rest in done)
        return self._stacks(after, empty=empty) if after or empty else None

    def _union(self, parts: Iterable[Stacks]) -> Stacks:
        several = list(parts)
        if len(several) == 1:
            return several[0]
        frames: set[tuple[int, Stacks]] = set()
        for one in several:
            frames.update(one.frames)
            self.spend(1 + len(one.frames))
        return self._stacks(frames, empty=any(one.empty for one in several))

    def _stacks(self, frames: Iterable[tuple[int, Stacks]], *, empty: bool) -> Stacks:
        ordered = sorted((at, rest.serial, rest) for at, rest in frames)
        key = (empty, tuple((at, serial) for at, serial, _ in ordered))
        found = self._known.get(key)
        if found is None:
            self.spend(1 + len(ordered))
            self.n_kept += 1 + len(ordered)
            made = tuple((at, rest) for at, _, rest in ordered)
            found = self._known[key] = Stacks(made, empty, len(self._known))
        return found

    # --- what may begin -------------------------------------------------------------------

    def open(self, stacks: Stacks) -> Opened:
        """Go down from every position on top to the characters and tokens that may come next."""
        if stacks.opened is None:
            stacks.opened = self._opened(stacks)
        return stacks.opened

    def _opened(self, stacks: Stacks) -> Opened:
        opened = Opened()
        waiting = self._uncovered(stacks, opened)
        places = self.positions
        line = [(places.order[at], at) for at in waiting]
        heapq.heapify(line)
        while line:
            number = line[0][0]
            group: list[int] = []  # nodes that lead to each other; mostly one
            while line and line[0][0] == number:
                group.append(heapq.heappop(line)[1])
            for at in self._level(group, waiting, number):
                rest = self._union(waiting.pop(at))
                self._descend(at, rest, waiting, line, number)
                if at < places.n and not isinstance(places.elements[at], int):
                    self.n_kept += 1
                    self._terminal(at, rest, opened)
        return opened

    def _uncovered(self, stacks: Stacks, opened: Opened) -> dict[int, dict[Stacks, None]]:
        """Positions on top, also of what lies below those that may be left out, and what each
        stands on."""
        waiting: dict[int, dict[Stacks, None]] = {}
        seen = {stacks}
        bases = [stacks]
        while bases:
            base = bases.pop()
            opened.ends |= base.empty
            self.spend(1 + len(base.frames))
            for at, rest in base.frames:
                waiting.setdefault(at, {})[rest] = None
                if self.positions.rest_empty[at] and rest not in seen:
                    seen.add(rest)
                    bases.append(rest)
        return waiting

    def _level(
        self, group: list[int], waiting: dict[int, dict[Stacks, None]], number: int
    ) -> list[int]:
        """All nodes of one component that are reached, each with all it stands on."""
        places, order = self.positions, self.positions.order
        members = dict.fromkeys(group)
        todo = list(members)
        while todo:
            node = todo.pop()
            for target, kept in places.leads_to(node):
                self.spend(1)
                if kept or order[target] != number or target == node:
                    continue
                below = waiting.setdefault(target, {})
                before = len(below)
                below.update(waiting[node])
                if len(below) > before or target not in members:
                    members[target] = None
                    todo.append(target)
        return list(members)

    def _descend(
        self,
        node: int,
        rest: Stacks,
        waiting: dict[int, dict[Stacks, None]],
        line: list[tuple[int, int]],
        number: int,
    ) -> None:
        places = self.positions
        for target, kept in places.leads_to(node):
            self.spend(1)
            if places.order[target] == number:
                continue  # its own component was done together
            below = self._stacks([(node + 1, rest)], empty=False) if kept else rest
            if target not in waiting:
                waiting[target] = {}
                heapq.heappush(line, (places.order[target], target))
            waiting[target][below] = None

    def _terminal(self, at: int, rest: Stacks, opened: Opened) -> None:
        if isinstance(self.positions.elements[at], TokenIs):
            opened.tokens.append((at, rest))
            return
        bits = self.positions.codes.sets[at]
        if bits and not bits & (bits - 1):
            opened.narrow.setdefault(bits.bit_length() - 1, []).append((at, rest))
        elif bits:
            opened.wide.append((at, rest))
