"""`--until-stable`: when a row has samples enough.

    step = next_step(samples_ts, rule, spent_s=0.0)
    while step.n_more:
        samples_ts += measure(step.n_more)
        step = next_step(samples_ts, rule, spent_s=...)

Looking after every sample, and stopping when the interval happens to be narrow, stops on lucky
runs of equal samples: the interval then covers the truth less often than it claims. Three things
hold against that (sequential fixed-width intervals: Anscombe 1953; Glynn and Whitt 1992): no look
before `min_samples`, looks at spaced points only (each has half as many samples again as the one
before), and two looks in a row must find the interval narrow enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localllm.errors import UsageProblem
from localllm.library.bench.statistics import ci95, mean


@dataclass(frozen=True)
class StableRule:
    """Repeat until half the 95 % interval of the mean rate is at most `relative` of the mean
    (0.02: plus or minus 2 %), for about `budget_s` seconds of a row's measuring at the most."""

    relative: float
    budget_s: float = 60.0
    min_samples: int = 8
    max_samples: int = 500

    def __post_init__(self) -> None:
        if not 0 < self.relative < 1:
            raise UsageProblem(
                f"--until-stable {self.relative:g} is no share between 0 and 1",
                "--until-stable 2% repeats until the mean is known to plus or minus 2 %",
            )
        if not self.budget_s > 0 or self.min_samples < 2:
            raise UsageProblem("--until-stable wants a budget above 0 s and two samples or more")


@dataclass(frozen=True)
class Step:
    """Take `n_more` samples and ask again; 0: stop.

    `stable`: the interval is narrow enough. `relative` is half its width as a share of the
    mean, None below two samples.
    """

    n_more: int
    stable: bool
    relative: float | None


def next_step(samples_ts: Sequence[float], rule: StableRule, spent_s: float) -> Step:
    """What to do with a row that has these rates after `spent_s` seconds of measuring it.

    Two samples are always taken: they tell what a sample costs, and from then on no more are
    asked for than the budget has time for.
    """
    n, width = len(samples_ts), relative_width(samples_ts)
    if n < 2:
        return Step(2 - n, False, width)
    looks = _looks(rule)
    if stable_at(samples_ts, rule):
        return Step(0, True, width)
    ahead = [look - n for look in looks if look > n]
    affordable = int((rule.budget_s - spent_s) * n / spent_s) if spent_s > 0 else rule.max_samples
    return Step(max(0, min(ahead[0], affordable)) if ahead else 0, False, width)


def stable_at(samples_ts: Sequence[float], rule: StableRule) -> bool:
    """Whether `samples_ts` end on a look at which, and at the one before, the interval was
    narrow enough."""
    looks = _looks(rule)
    n = len(samples_ts)
    if n not in looks[1:]:
        return False
    before = looks[looks.index(n) - 1]
    widths = (relative_width(samples_ts[:before]), relative_width(samples_ts))
    return all(width is not None and width <= rule.relative for width in widths)


def relative_width(samples_ts: Sequence[float]) -> float | None:
    """Half the 95 % interval of the mean, as a share of the mean."""
    interval = ci95(samples_ts)
    if interval is None:
        return None
    return (interval.high - interval.low) / 2 / mean(samples_ts)


def _looks(rule: StableRule) -> list[int]:
    """The sample counts at which the interval is looked at: 8, 12, 18, 27, 41 ..."""
    looks = [rule.min_samples]
    while looks[-1] < rule.max_samples:
        looks.append(min(rule.max_samples, looks[-1] + (looks[-1] + 1) // 2))
    return looks
