"""Mean, deviation and the interval around a mean, for few and uneven samples.

The interval of a mean rate is a studentized bootstrap ("bootstrap-t", Efron 1981; Hall 1988):
resamples are compared by (mean* - mean) / se*, so that it is as wide as few samples deserve.
Timings are skewed (a disturbed run is slow, none is miraculously fast) and few; there the
percentile and BCa bootstraps are too narrow: benchmarks/interval_coverage.py has the coverage
of all of them on recorded noise. Below `LEAST_FOR_BOOTSTRAP` samples there are too few different
resamples, and Student's t stands in.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Method = Literal["bootstrap-t", "student-t"]
LEAST_FOR_BOOTSTRAP = 5
_RESAMPLES = 4000
_SEED = 20240229  # the same samples give the same interval on every machine

# Two-sided 95 % quantiles of Student's t for 1, 2 and 3 degrees of freedom.
_STUDENT = {2: 12.7062, 3: 4.3027, 4: 3.1824}


@dataclass(frozen=True)
class Interval:
    """95 % confidence bounds, in the unit of the samples."""

    low: float
    high: float
    method: Method


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; 0 of nothing, as a failed row has it."""
    return statistics.fmean(values) if values else 0.0


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation (n - 1); 0 below two values, as llama-bench has it."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def ci95(values: Sequence[float]) -> Interval | None:
    """The 95 % confidence interval of the mean of `values`; None below two of them.

    Takes the samples for independent. Deterministic. Never negative where all values are
    positive: a rate is not.
    """
    n = len(values)
    if n < 2:
        return None
    centre, error = mean(values), deviation(values) / math.sqrt(n)
    if error == 0:
        return Interval(centre, centre, "student-t" if n < LEAST_FOR_BOOTSTRAP else "bootstrap-t")
    if n < LEAST_FOR_BOOTSTRAP:
        half = _STUDENT[n] * error
        low, high, method = centre - half, centre + half, "student-t"
    else:
        below, above = _studentized(values)
        low, high, method = centre - above * error, centre - below * error, "bootstrap-t"
    floor = 0.0 if min(values) > 0 else -math.inf
    return Interval(max(low, floor), high, method)  # type: ignore[arg-type]


def _studentized(values: Sequence[float]) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of (mean* - mean) / se* over resamples of `values`."""
    import numpy as np

    data = np.asarray(values, dtype=np.float64)
    n = len(data)
    resamples = data[resample_indices(n)]
    error = resamples.std(axis=1, ddof=1) / math.sqrt(n)
    # A resample of one value drawn n times has no error of its own and says nothing.
    told = error > 1e-9 * data.std(ddof=1)
    t = (resamples.mean(axis=1) - data.mean())[told] / error[told]
    low, high = np.quantile(t, (0.025, 0.975))
    return float(low), float(high)


def resample_indices(n: int, times: int = _RESAMPLES, stream: int = 0) -> NDArray[np.intp]:
    """`times` draws of n out of n with replacement, shape (times, n): the same at every call,
    and others for another `stream`."""
    import numpy as np

    return np.random.default_rng((_SEED, stream)).integers(0, n, size=(times, n))


def ratio_ci95(base: Sequence[float], new: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % bounds of mean(new) / mean(base), by a bootstrap-t on the logarithm of the ratio;
    None where a side has fewer than two values or one that is not above 0.

    The standard error of log(mean) is that of the mean over the mean (the delta method). Below
    `LEAST_FOR_BOOTSTRAP` values on a side, Student's t with the smaller side's degrees of freedom.
    """
    n = min(len(base), len(new))
    if n < 2 or min(*base, *new) <= 0:
        return None
    centre = math.log(mean(new) / mean(base))
    error = math.hypot(_log_error(base), _log_error(new))
    if error == 0:
        return math.exp(centre), math.exp(centre)
    low, high = (-_STUDENT[n], _STUDENT[n]) if n < LEAST_FOR_BOOTSTRAP else _ratio_t(base, new)
    return math.exp(centre - high * error), math.exp(centre - low * error)


def _log_error(values: Sequence[float]) -> float:
    return deviation(values) / math.sqrt(len(values)) / mean(values)


def _ratio_t(base: Sequence[float], new: Sequence[float]) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of the studentized log ratio over resamples of both sides."""
    import numpy as np

    logs, errors = [], []
    for number, values in enumerate((base, new)):
        data = np.asarray(values, dtype=np.float64)
        drawn = data[resample_indices(len(data), stream=number)]
        middle = drawn.mean(axis=1)
        logs.append(np.log(middle) - math.log(data.mean()))
        errors.append(drawn.std(axis=1, ddof=1) / math.sqrt(len(data)) / middle)
    error = np.hypot(*errors)
    told = error > 1e-9
    low, high = np.quantile((logs[1] - logs[0])[told] / error[told], (0.025, 0.975))
    return float(low), float(high)
