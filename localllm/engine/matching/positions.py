"""Places in a grammar, and what each can begin with."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from localllm.engine.matching.rules import Element, Ranges, Rules
from localllm.errors import UsageProblem


class Positions:
    """Every element of every alternative has a number, those of one alternative in a row.

    Behind the positions stand the rules: rule `r` is node `n + r` of the graph of what may begin
    where, whose `order` is such that nothing leads back to a lower one. Raises UsageProblem for
    left recursion, hidden behind parts that may be empty too (which llama.cpp does not see).
    """

    def __init__(self, rules: Rules) -> None:
        self.elements: list[Element] = []
        self.last: list[bool] = []
        self.starts: list[list[int]] = []
        for alternatives in rules.alternatives:
            begun: list[int] = []
            for sequence in alternatives:
                if sequence:
                    begun.append(len(self.elements))
                    self.elements += sequence
                    self.last += [False] * (len(sequence) - 1) + [True]
            self.starts.append(begun)
        self.n = len(self.elements)
        self.root = rules.root
        self.nullable = _nullable(rules)
        self.rest_empty = self._rest_empty()
        self.order = self._ordered(rules)
        self.codes = CodeClasses(self.elements)

    def _rest_empty(self) -> list[bool]:
        """Whether from a position on its alternative can be left without a character."""
        found = [False] * self.n
        for at in range(self.n - 1, -1, -1):
            element = self.elements[at]
            if isinstance(element, int) and self.nullable[element]:
                found[at] = self.last[at] or found[at + 1]
        return found

    def leads_to(self, node: int) -> Iterator[tuple[int, bool]]:
        """Nodes that may begin where `node` does, and whether a place to come back to is kept
        meanwhile."""
        if node >= self.n:
            for start in self.starts[node - self.n]:
                yield start, False
            return
        element = self.elements[node]
        if isinstance(element, int):
            yield self.n + element, not self.last[node]
            if self.nullable[element] and not self.last[node]:
                yield node + 1, False

    def _ordered(self, rules: Rules) -> list[int]:
        """Strongly connected components, numbered from the first to the last (Tarjan 1972)."""
        total = self.n + len(rules.alternatives)
        index, low, component = [0] * total, [0] * total, [-1] * total
        clock = count = 0
        path: list[int] = []
        for root in range(self.n, total):
            if index[root]:
                continue
            clock += 1
            index[root] = low[root] = clock
            path.append(root)
            calls = [(root, self.leads_to(root))]
            while calls:
                node, onward = calls[-1]
                for target, _ in onward:
                    if not index[target]:
                        clock += 1
                        index[target] = low[target] = clock
                        path.append(target)
                        calls.append((target, self.leads_to(target)))
                        break
                    if component[target] < 0:
                        low[node] = min(low[node], index[target])
                else:
                    calls.pop()
                    if calls:
                        low[calls[-1][0]] = min(low[calls[-1][0]], low[node])
                    if low[node] == index[node]:
                        while component[node] < 0:
                            component[path.pop()] = count
                        count += 1
        self._refuse_left_recursion(rules, component)
        return [count - 1 - number if number >= 0 else count for number in component]

    def _refuse_left_recursion(self, rules: Rules, component: Sequence[int]) -> None:
        for at, element in enumerate(self.elements):
            if not isinstance(element, int) or self.last[at] or component[at] < 0:
                continue
            if component[self.n + element] == component[at]:
                raise UsageProblem(
                    f"the grammar has left recursion: rule {rules.names[element]!r} begins with "
                    "itself",
                    'write a ::= b ("," b)* for a ::= a "," b | b',
                )


class CodeClasses:
    """Code points that no part of the grammar tells apart are one class.

    `sets` has, for each position of characters, a bit for each class in it.
    """

    def __init__(self, elements: Sequence[Element]) -> None:
        distinct = {one for one in elements if isinstance(one, tuple)}
        self.edges = sorted({0, *(e for one in distinct for a, b in one for e in (a, b + 1))})
        made = {one: self._bits(one) for one in distinct}
        self.sets: list[int] = [made[one] if isinstance(one, tuple) else 0 for one in elements]

    def _bits(self, wanted: Ranges) -> int:
        bits = 0
        for low, high in wanted:
            bits |= (1 << self.of(high) + 1) - (1 << self.of(low))
        return bits

    def of(self, code: int) -> int:
        return bisect_right(self.edges, code) - 1

    def within(self, low: int, high: int) -> int:
        """The classes of which some code point lies from `low` to `high`, as bits."""
        return (1 << self.of(high) + 1) - (1 << self.of(low))


def _nullable(rules: Rules) -> list[bool]:
    """Rules that match the empty text."""
    found = [False] * len(rules.alternatives)
    # Alternatives that a token or character keeps from being empty never count.
    waits: list[list[list[int]]] = [[] for _ in found]
    ready: list[int] = []
    for rule, alternatives in enumerate(rules.alternatives):
        for sequence in alternatives:
            parts = [one for one in sequence if isinstance(one, int)]
            if len(parts) < len(sequence):
                continue
            missing = [rule, len(parts)]
            for part in parts:
                waits[part].append(missing)
            if not parts and not found[rule]:
                found[rule] = True
                ready.append(rule)
    while ready:
        for missing in waits[ready.pop()]:
            missing[1] -= 1
            if missing[1] == 0 and not found[missing[0]]:
                found[missing[0]] = True
                ready.append(missing[0])
    return found
