"""How far to draft: as long as the time that it is likely to save is more than it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

_WEIGHT = 0.2  # of the latest measurement in a running mean
_UNMEASURED_P = 0.4  # the least probability to draft with before anything is measured
_HOPE = 0.05  # of a plain step: what a token more is thought to add to a batch never tried
_FARTHEST = 16  # tokens ahead that are thought of
_FAITH = 4.0  # tokens that a draft is believed for before any were verified
_MEMORY = 64.0  # tokens after which older ones count half
_JUDGED = 4  # rounds that show whether drafting pays
_NOISE = 0.02  # a loss of so much of the time of plain steps is none
_FIRST_REST, _LONGEST_REST = 8, 128  # steps without a draft after it did not
_REMEASURE = 64  # tokens after which the plain step is measured again


@dataclass
class Mean:
    """A running mean that forgets. `value` is None before the first measurement."""

    value: float | None = None

    def add(self, value: float) -> None:
        self.value = value if self.value is None else self.value + _WEIGHT * (value - self.value)


class Pace:
    """Decides with `p_min` alone where it is given: a token is drafted if the draft gives it at
    least that probability (llama.cpp's rule). Else by measured times: one more token is drafted
    if there is a length at which the draft is likely to save more than it costs,

        sum of P(all up to the i-th are accepted) * time of a plain step
            > what a batch so long takes more, + the time to draft so far

    The probabilities are the draft's own word, times what became of it lately: some are surer
    than they are right. What a batch takes is measured by its size, and is far from even: on
    processors the second token often costs as much as the first, and the next six together no
    more. Sizes never tried are thought to be cheap, so that they are tried.

    Where rounds of drafting lose time all the same, it rests and tries again later, each time
    after a longer while. A draft that is too slow, a processor that verifies no faster than token
    by token, a text that cannot be guessed: all end up at nearly the plain speed.
    """

    def __init__(self, p_min: float | None = None) -> None:
        self._p_min = p_min
        self._steps: dict[int, Mean] = {}  # seconds by tokens in the batch
        self._draft_s = Mean()  # of a drafted token
        self._taken: list[float] = []  # probabilities of the draft being made
        self._right, self._expected = _FAITH, _FAITH  # tokens, as they came and as was said
        self._gain_s = 0.0
        self._n_judged = 0
        self._resting, self._rest = 0, _FIRST_REST
        self._since_plain = _REMEASURE

    @property
    def plain_s(self) -> float | None:
        """Of a step without a draft."""
        return self._steps[1].value if 1 in self._steps else None

    def begin(self) -> None:
        """Another answer: the plain step is measured anew, since it depends on the context."""
        self._since_plain = _REMEASURE

    def drafts(self) -> bool:
        """Whether the next step should have a draft."""
        self._taken.clear()
        if self._since_plain >= _REMEASURE:
            return False
        if self._p_min is not None or self._resting == 0:
            return True
        self._resting -= 1
        if self._resting == 0:  # what was measured then may have been another process's doing
            self._steps = {1: self._steps[1]}
        return False

    def takes(self, p: float) -> bool:
        """Whether to draft one more token, of probability `p`."""
        if self._p_min is not None:
            return p >= self._p_min
        worth = self._is_worth([*self._taken, p])
        if worth:
            self._taken.append(p)
        return worth

    def _is_worth(self, probabilities: list[float]) -> bool:
        n = len(probabilities)
        likely = math.prod(probabilities) * min(1.0, self._right / self._expected) ** n
        plain = self.plain_s
        if plain is None or len(self._steps) < 2:
            return likely >= _UNMEASURED_P
        draft_s = self._draft_s.value or 0.0
        mean = likely ** (1 / n)  # what those to come are thought to be
        before, saved = self.step_s(n), 0.0
        for last in range(n, n + _FARTHEST):
            saved += likely * plain
            if saved > self.step_s(last + 1) - before + (last - n) * draft_s:
                return True
            likely *= mean
        return False

    def step_s(self, size: int) -> float:
        """What a batch of so many tokens takes, by those that were measured."""
        below = max(known for known in self._steps if known <= size)
        low, plain = self._steps[below].value or 0.0, self.plain_s or 0.0
        if below == size:
            return low
        above = min((known for known in self._steps if known > size), default=None)
        if above is None:
            return low + (size - below) * _HOPE * plain
        high = self._steps[above].value or 0.0
        return low + max(0.0, high - low) * (size - below) / (above - below)

    # --- what was measured ---------------------------------------------------------------

    def stepped(self, seconds: float) -> None:
        """A step without a draft."""
        self._steps.setdefault(1, Mean()).add(seconds)
        self._since_plain = 0

    def verified(self, n_drafted: int, n_accepted: int, draft_s: float, step_s: float) -> None:
        """A step with a draft: `draft_s` went into making it, `step_s` into the rest, taking
        back what was wrong included."""
        self._since_plain += n_accepted + 1
        self._right += n_accepted
        self._expected += sum(self._taken[: n_accepted + 1])
        if self._expected > _MEMORY:
            self._right, self._expected = self._right / 2, self._expected / 2
        plain = self.plain_s
        if plain is None:
            return
        self._draft_s.add(draft_s / n_drafted)
        self._steps.setdefault(n_drafted + 1, Mean()).add(step_s)
        self._judge((n_accepted + 1) * plain - draft_s - step_s)

    def in_vain(self, draft_s: float) -> None:
        """The draft ended before its first token: that time was lost."""
        self._judge(-draft_s)

    def _judge(self, gain_s: float) -> None:
        if self._p_min is not None:
            return
        self._gain_s += gain_s
        self._n_judged += 1
        if self._n_judged < _JUDGED:
            return
        if self._gain_s < -_NOISE * self._n_judged * (self.plain_s or 0.0):
            self._resting, self._rest = self._rest, min(2 * self._rest, _LONGEST_REST)
        else:
            self._rest = _FIRST_REST
        self._gain_s, self._n_judged = 0.0, 0
