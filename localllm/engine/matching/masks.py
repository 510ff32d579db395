"""The tokens of a whole vocabulary that may come next.

Level by level of the tree of tokens: numpy does what concerns every node, Python only what the
grammar answers, once for each pair of a state and a class of characters.
"""

from __future__ import annotations

from typing import Any

from localllm.engine.matching.desk import Engaged
from localllm.engine.matching.rules import TokenIs
from localllm.engine.matching.stacks import Machine, Stacks, TooManyWays
from localllm.engine.matching.vocabulary import Level, Partial

_UNKNOWN, _DEAD = -1, 0
_MOST_CELLS = 1 << 24  # of the table of moves: 64 MiB


class _Moves:
    """The states met on one walk, numbered, and where each class of characters leads from them."""

    def __init__(self, machine: Machine, n_classes: int, start: Stacks) -> None:
        import numpy as np

        self._machine = machine
        self._n_classes = n_classes
        self.states: list[Stacks | None] = [None, start]
        self._numbers: dict[Stacks, int] = {start: 1}
        self._table = np.full((8, n_classes), _UNKNOWN, np.int32)

    def of(self, states: Any, classes: Any) -> Any:
        """The next state's number for each pair; 0 where nothing leads on."""
        import numpy as np

        found = self._table[states, classes]
        unknown = np.flatnonzero(found == _UNKNOWN)
        if len(unknown):
            keys = states[unknown].astype(np.int64) * self._n_classes + classes[unknown]
            for key in np.unique(keys).tolist():
                self._fill(*divmod(key, self._n_classes))
            found[unknown] = self._table[states[unknown], classes[unknown]]
        return found

    def _fill(self, state: int, code_class: int) -> None:
        before = self.states[state]
        assert before is not None  # nobody goes on from a dead one
        self._machine.spend(1)
        after = self._machine.move(before, code_class)
        self._table[state, code_class] = _DEAD if after is None else self._number(after)

    def _number(self, state: Stacks) -> int:
        import numpy as np

        number = self._numbers.get(state)
        if number is None:
            number = self._numbers[state] = len(self.states)
            self.states.append(state)
            if number == len(self._table):
                if 2 * self._table.size > _MOST_CELLS:
                    raise TooManyWays("the grammar tells too many characters and places apart")
                more = np.full_like(self._table, _UNKNOWN)
                self._table = np.concatenate((self._table, more))
        return number


def fitting(engaged: Engaged, stacks: Stacks) -> Any:
    """Tokens that may come next, in order (int32), where no character is begun. Remembered."""
    import numpy as np

    n_tokens = engaged.vocabulary.n_tokens
    if stacks.mask is None:
        allowed = _walk(engaged, stacks)
        engaged.remember(stacks, np.packbits(allowed).tobytes())
        return np.flatnonzero(allowed).astype(np.int32)
    packed = np.frombuffer(stacks.mask, np.uint8)
    return np.flatnonzero(np.unpackbits(packed, count=n_tokens)).astype(np.int32)


def _walk(engaged: Engaged, start: Stacks) -> Any:
    import numpy as np

    vocabulary, machine = engaged.vocabulary, engaged.machine
    allowed = np.zeros(vocabulary.n_tokens, bool)
    moves = _Moves(machine, len(machine.positions.codes.edges), start)
    classes = engaged.classes
    nodes = np.zeros(1, np.int32)  # of the level above, and the state of each
    states = np.ones(1, np.int32)
    _partials(engaged, vocabulary.root_partial, nodes, states, moves, allowed)
    for level in vocabulary.levels:
        children, above = _children(level, nodes, states)
        after = moves.of(above, classes[level.code[children]])
        alive = np.flatnonzero(after)
        nodes, states = children[alive], after[alive]
        if not len(nodes):
            break
        reached = np.zeros(len(level.code), bool)
        reached[nodes] = True
        allowed[level.token[reached[level.token_node]]] = True
        _partials(engaged, level.partial, nodes, states, moves, allowed)
    _named(engaged, start, allowed)
    return allowed


def _children(level: Level, nodes: Any, states: Any) -> tuple[Any, Any]:
    """The nodes below `nodes`, and their parents' states."""
    import numpy as np

    first = level.first[nodes]
    counts = level.first[nodes + 1] - first
    ends = np.cumsum(counts)
    within = np.arange(ends[-1], dtype=np.int32) - np.repeat(ends - counts, counts)
    return np.repeat(first, counts) + within, np.repeat(states, counts)


def _partials(
    engaged: Engaged,
    partial: tuple[Partial, ...],
    nodes: Any,
    states: Any,
    moves: _Moves,
    allowed: Any,
) -> None:
    """Those that end within a character, which must be able to become one that fits."""
    import numpy as np

    if not partial:
        return
    wanted = np.fromiter((one.node for one in partial), np.int32, len(partial))
    places = np.minimum(np.searchsorted(nodes, wanted), len(nodes) - 1)
    for i in np.flatnonzero(nodes[places] == wanted).tolist():
        one, state = partial[i], moves.states[states[places[i]]]
        assert state is not None
        if engaged.may_become(state, (one.low, one.high)):
            allowed[one.token] = True


def _named(engaged: Engaged, stacks: Stacks, allowed: Any) -> None:
    """Tokens that the grammar names by their number, and the end."""
    machine = engaged.machine
    opened = machine.open(stacks)
    eog = engaged.vocabulary.eog
    for at, _ in opened.tokens:
        element = machine.positions.elements[at]
        assert isinstance(element, TokenIs)
        if element.negated:
            kept = allowed[element.token]
            allowed |= engaged.written
            allowed[element.token] = kept
        else:
            allowed[element.token] |= bool(engaged.written[element.token])
    allowed[list(eog)] = opened.ends
