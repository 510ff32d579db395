"""How far a sweep is, in time: rows take very different times, so counting them would mislead."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from localllm.library.bench.case import BenchTest, Case

WHOLE = 1000  # the sweep, in the units that are advanced by

# Until something was measured: a generated token takes as long as so many of a prompt.
_GUESS = 20.0


class Pace:
    """Turns samples into thousandths of the sweep.

    What is left is priced by what samples took so far, a token of a prompt and a generated one
    each by itself; before the first of either by a guess.
    """

    def __init__(
        self, left: Sequence[Case], runs_each: int, advance: Callable[[int], None]
    ) -> None:
        self._left = [case.test for case in left]
        self._runs_each = runs_each
        self._advance = advance
        self._began = time.monotonic()
        self._shown = 0
        self._prompt_s: float | None = None
        self._gen_s: float | None = None
        self._runs = 0

    def sampled(self, ns: int) -> None:
        """One run of the current row took so long; 0: its warm-up, of which nobody tells."""
        test = self._left[0]
        self._runs += 1
        if ns and not test.n_gen:
            self._prompt_s = ns / 1e9 / test.n_prompt
        elif ns and not test.n_prompt:
            self._gen_s = ns / 1e9 / test.n_gen
        self._show()

    def finished(self) -> None:
        """The current row is done, or failed."""
        self._left.pop(0)
        self._runs = 0
        self._show()

    def _show(self) -> None:
        ahead = sum(self._cost(test) for test in self._left) * self._runs_each
        if self._left:
            ahead -= self._cost(self._left[0]) * min(self._runs, self._runs_each)
        done = time.monotonic() - self._began
        now = int(WHOLE * done / (done + ahead)) if self._left else WHOLE
        if now > self._shown:
            self._advance(now - self._shown)
            self._shown = now

    def _cost(self, test: BenchTest) -> float:
        prompt_s = self._prompt_s
        if prompt_s is None:
            prompt_s = self._gen_s / _GUESS if self._gen_s else 1e-3
        gen_s = self._gen_s if self._gen_s is not None else prompt_s * _GUESS
        return test.n_prompt * prompt_s + test.n_gen * gen_s
