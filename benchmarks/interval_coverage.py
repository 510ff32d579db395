"""How often 95 % intervals of a mean hold the true mean, by four methods, on recorded noise.

    python benchmarks/interval_coverage.py [--trials 2000]

Samples are drawn from gate_samples.json (see gate_alarms.py), independently of each other; the
truth is the recording's mean. `localllm bench` prints the interval of `ours`, a studentized
bootstrap. A width is the median interval over the mean.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gate_alarms import TESTS, read

HERE = Path(__file__).resolve().parent


def coverage(path: Path, trials: int, seed: int) -> Iterator[dict[str, Any]]:
    """Independent draws from the recorded rates; the truth is their mean."""
    import numpy as np

    rng = np.random.default_rng(seed)
    for (name, n_prompt, n_gen), recording in zip(TESTS, read(path).values(), strict=True):
        rates = (n_prompt + n_gen) * 1e9 / np.array(recording.ns)
        for n in (5, 8, 12, 20, 30):
            draws = rng.choice(rates, size=(trials, n))
            row: dict[str, Any] = {"test": name, "n": n}
            for method in METHODS:
                held = [METHODS[method](draw, rates.mean()) for draw in draws]
                row[method] = round(sum(h for h, _ in held) / trials, 3)
                row[f"{method}_width"] = round(
                    float(np.median([w for _, w in held])) / rates.mean(), 3
                )
            yield row


def _ours(values: Any, truth: float) -> tuple[bool, float]:
    from localllm.library.bench.statistics import ci95

    found = ci95([float(v) for v in values])
    assert found is not None
    return found.low <= truth <= found.high, found.high - found.low


def _student(values: Any, truth: float) -> tuple[bool, float]:
    from localllm.bench.comparing.judge import student_t

    half = student_t(len(values) - 1, 0.95) * values.std(ddof=1) / math.sqrt(len(values))
    return bool(abs(values.mean() - truth) <= half), 2 * half


def _percentile(values: Any, truth: float) -> tuple[bool, float]:
    import numpy as np

    low, high = np.quantile(_means(values), (0.025, 0.975))
    return bool(low <= truth <= high), high - low


def _bca(values: Any, truth: float) -> tuple[bool, float]:
    import numpy as np

    normal, means, n = statistics.NormalDist(), _means(values), len(values)
    share = float(np.clip((means < values.mean()).mean(), 1e-4, 1 - 1e-4))
    bias = normal.inv_cdf(share)
    jack = np.array([np.delete(values, i).mean() for i in range(n)])
    off = jack.mean() - jack
    accel = (off**3).sum() / (6 * max((off**2).sum(), 1e-12) ** 1.5)
    ends = []
    for z in (normal.inv_cdf(0.025), normal.inv_cdf(0.975)):
        ends.append(normal.cdf(bias + (bias + z) / (1 - accel * (bias + z))))
    low, high = np.quantile(means, ends)
    return bool(low <= truth <= high), high - low


def _means(values: Any) -> Any:
    from localllm.library.bench.statistics import resample_indices

    return values[resample_indices(len(values), 2000)].mean(axis=1)


METHODS = {"ours": _ours, "student_t": _student, "percentile": _percentile, "bca": _bca}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=Path, default=HERE / "gate_samples.json")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for row in coverage(options.samples, options.trials, options.seed):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
