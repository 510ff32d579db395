"""Which tokens of a shared cache belong to which sequences: what is used, and what is free.

llama.cpp does not tell how many cells of a cache are taken. A cell that several sequences share
(a common prefix) counts once, so a sequence is a chain of runs here, and sequences with a common
beginning share the runs of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class _Run:
    """So many cells in a row, and whose they are."""

    n: int
    owners: set[int] = field(default_factory=set)


class CellBook:
    """The cells of one pool."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._chains: dict[int, list[_Run]] = {}

    @property
    def free(self) -> int:
        return self.capacity - self.used

    def length(self, sequence: int) -> int:
        return sum(run.n for run in self._chains.get(sequence, ()))

    def own(self, sequence: int) -> int:
        """Cells that would be free without `sequence`."""
        return sum(run.n for run in self._chains.get(sequence, ()) if len(run.owners) == 1)

    def grow(self, sequence: int, n: int) -> None:
        """`sequence` computed `n` more tokens."""
        chain = self._chains.setdefault(sequence, [])
        if chain and len(chain[-1].owners) == 1:
            chain[-1].n += n
        elif n:
            chain.append(_Run(n, {sequence}))
        self.used += n

    def share(self, source: int, target: int, n: int) -> None:
        """`target`, empty before, gets the first `n` tokens of `source`."""
        self.remove(target)
        self._split(source, n)
        chain = self._chains[target] = []
        for run in self._chains.get(source, ()):
            if n <= 0:
                break
            run.owners.add(target)
            chain.append(run)
            n -= run.n

    def cut(self, sequence: int, n_keep: int) -> None:
        """`sequence` loses all after its first `n_keep` tokens."""
        self._split(sequence, n_keep)
        kept: list[_Run] = []
        for run in self._chains.pop(sequence, ()):
            if n_keep > 0:
                kept.append(run)
                n_keep -= run.n
                continue
            run.owners.discard(sequence)
            if not run.owners:
                self.used -= run.n
        if kept:
            self._chains[sequence] = kept

    def remove(self, sequence: int) -> None:
        self.cut(sequence, 0)

    def clear(self) -> None:
        self._chains.clear()
        self.used = 0

    def _split(self, sequence: int, at: int) -> None:
        """Let a run end after the first `at` tokens of `sequence`."""
        for run in self._chains.get(sequence, ()):
            if at <= 0:
                return
            if at < run.n:
                rest = _Run(run.n - at, set(run.owners))
                run.n = at
                for owner in run.owners:
                    chain = self._chains[owner]
                    chain.insert(chain.index(run) + 1, rest)
                return
            at -= run.n
