"""How much slower, how surely, and whether that is a regression.

A loss is a share of the rate: 0.1 is 10 % slower, below 0 faster. All of it happens on the
logarithms of times, where a slow-down is a shift and both sides count the same.

Interleaved samples (`paired_loss`) are the strong way. Base and new are measured in turn, A B B A
A B B A, one sample each, so that whatever else the machine does falls on both. Two pairs make a
block, in which a steady drift cancels; a 20 % trimmed mean of the blocks (Yuen 1974) bears that
every fifth of them was disturbed on one side only.

Rounds at different times (`rounds_loss`) are the weak way, for a baseline that cannot be run
again: what varies from round to round is then the only measure of what varies between the day of
the baseline and today, and it counts fully for the baseline, which is one round or a few.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["regression", "fine", "undecided"]
CONFIDENCE = 0.99  # of the bounds; several rows are judged, and several times each
TRIM = 0.2
LOOKS = (8, 16, 32, 64, 128)  # pairs after which the bounds are looked at
_LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Loss:
    """The loss of speed with its 99 % bounds, as shares of the base's rate; `n` says of how
    many pairs or rounds. Infinite bounds: too little is known."""

    share: float
    low: float
    high: float
    n: int


def paired_loss(base_ns: Sequence[int], new_ns: Sequence[int]) -> Loss:
    """The loss by interleaved samples: `base_ns[i]` and `new_ns[i]` were taken one right after
    the other, which of them first alternating. An odd pair at the end is left out."""
    n = len(base_ns) // 2 * 2
    logs = [math.log(new / old) for old, new in zip(base_ns[:n], new_ns[:n], strict=True)]
    blocks = [(a + b) / 2 for a, b in zip(logs[::2], logs[1::2], strict=True)]
    centre, half = trimmed_mean(blocks)
    return _loss(centre, half, n)


def rounds_loss(base: Sequence[Sequence[float]], new: Sequence[Sequence[float]]) -> Loss:
    """The loss by rounds measured at different times; each is the rates of its samples.

    A round counts by its median. Their deviation is pooled over both sides; where neither has
    three rounds it is unknown, and so are the bounds.
    """
    old_logs = [_middle(samples) for samples in base]
    new_logs = [_middle(samples) for samples in new]
    centre = statistics.fmean(old_logs) - statistics.fmean(new_logs)
    groups = [logs for logs in (old_logs, new_logs) if len(logs) >= _LEAST_ROUNDS]
    if not groups:
        return _loss(centre, math.inf, len(new))
    degrees = sum(len(logs) - 1 for logs in groups)
    between = sum(statistics.variance(logs) * (len(logs) - 1) for logs in groups) / degrees
    within = max(map(_error_of_median, (*base, *new)))
    variance = max(between, within**2) * (1 / len(base) + 1 / len(new))
    return _loss(centre, student_t(degrees) * math.sqrt(variance), len(new))


def samples_loss(base: Sequence[float], new: Sequence[float]) -> Loss:
    """The loss by the samples of two runs as they are: what their spread says and no more, so
    what changed on the machine between the runs counts as a change of speed."""
    if min(len(base), len(new)) < 2:
        return _loss(_middle(base) - _middle(new), math.inf, len(new))
    logs = [[math.log(rate) for rate in side] for side in (base, new)]
    centre = statistics.fmean(logs[0]) - statistics.fmean(logs[1])
    parts = [statistics.variance(side) / len(side) for side in logs]
    if not sum(parts):
        return _loss(centre, 0.0, len(new))
    # Welch and Satterthwaite's degrees of freedom
    each = sum(p * p / (len(side) - 1) for p, side in zip(parts, logs, strict=True))
    degrees = max(1, math.floor(sum(parts) ** 2 / each))
    return _loss(centre, student_t(degrees) * math.sqrt(sum(parts)), len(new))


def judged(loss: Loss, limit: float, *, last: bool) -> Outcome | None:
    """What `loss` means against the `limit`; None while more samples could still tell.

    Before the last look only what is clear: bounds wholly on one side of the limit. At the last
    a regression is a loss beyond the limit and beyond its own confidence; one beyond the limit
    that may be none at all is undecided.
    """
    if loss.low > limit:
        return "regression"
    if loss.high <= limit:
        return "fine"
    if not last:
        return None
    if loss.share <= limit:
        return "fine"
    return "regression" if loss.low > 0 else "undecided"


def trimmed_mean(values: Sequence[float], trim: float = TRIM) -> tuple[float, float]:
    """The mean without the lowest and highest fifth, and half its 99 % interval (Yuen 1974:
    Student's t on the winsorized deviation). Infinite below two values."""
    ordered = sorted(values)
    n, cut = len(ordered), int(trim * len(ordered))
    if not n:
        return 0.0, math.inf
    kept = ordered[cut : n - cut]
    centre = statistics.fmean(kept)
    if len(kept) < 2:
        return centre, math.inf
    winsorized = [min(max(v, kept[0]), kept[-1]) for v in ordered]
    error = statistics.stdev(winsorized) / ((1 - 2 * cut / n) * math.sqrt(n))
    return centre, student_t(len(kept) - 1) * error


@functools.cache
def student_t(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The two-sided quantile of Student's t, by bisection."""
    low, high = 0.0, 1e4
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < confidence else (low, middle)
    return high


def _within(t: float, degrees: int) -> float:
    """P(|T| < t), as a finite sum (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2 == 1
    if degrees == 1:
        return 2 * angle / math.pi
    term = total = cosine if odd else 1.0
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= (k - 1) / k * cosine * cosine
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _loss(log_ratio: float, half: float, n: int) -> Loss:
    """From log(base rate / new rate) and half its interval to shares."""
    return Loss(_share(log_ratio), _share(log_ratio - half), _share(log_ratio + half), n)


def _share(log_ratio: float) -> float:
    return -math.expm1(-log_ratio) if log_ratio < 700 else 1.0


def _middle(rates: Sequence[float]) -> float:
    return math.log(statistics.median(rates))


def _error_of_median(rates: Sequence[float]) -> float:
    """The standard error of a round's median, were its samples independent."""
    if len(rates) < 2:
        return 0.0
    return 1.2533 * statistics.stdev(math.log(r) for r in rates) / math.sqrt(len(rates))
