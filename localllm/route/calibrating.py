"""The threshold for a share of strong calls, a quality or a budget, and what it will bring."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from localllm.errors import UsageProblem
from localllm.registry import Registry
from localllm.registry.routers import KeptVersion, Routers
from localllm.route.contrast import Contrast, Floats, merged
from localllm.route.learned import Tested, digests, open_tested
from localllm.route.measuring.intervals import LEVEL, Figure
from localllm.route.pool.member import cost_of
from localllm.route.pool.reading import parse_spec
from localllm.route.pool.spec import RouterSpec
from localllm.route.pool.writing import as_toml
from localllm.route.router import Router, threshold_for_share
from localllm.route.teaching import held_out_probabilities, trained_step, with_threshold
from localllm.route.text.sparse import Ints

_RESAMPLES = 2000


@dataclass(frozen=True)
class Target:
    """One of the three. `quality` is the part of the gap between the members that is recovered;
    `budget` the mean cost of a prompt in the router's unit."""

    strong_share: float | None = None
    quality: float | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.strong_share, self.quality, self.budget) if v is not None]
        if len(given) != 1:
            raise UsageProblem(
                "a threshold is set for one thing",
                "--strong-share 30%, --quality 95% or --budget 0.01",
            )
        if self.budget is None and not 0 <= given[0] <= 1:
            raise UsageProblem(f"a share is from 0 to 100 %, not {given[0]:g}")
        if not (math.isfinite(given[0]) and given[0] >= 0):
            raise UsageProblem(f"a budget is a number from 0 on, not {given[0]:g}")


@dataclass(frozen=True)
class Sample:
    """Held-out prompts: the probability each has, the qualities of both members' answers, and
    what each costs (NaN where that is not known)."""

    probability: Floats
    weak: Floats
    strong: Floats
    cost_weak: Floats
    cost_strong: Floats

    def __len__(self) -> int:
        return len(self.probability)


@dataclass(frozen=True)
class Expected:
    """What a threshold brings on held-out prompts, with 95 % intervals."""

    threshold: float
    n_prompts: int
    strong_share: Figure
    quality: Figure
    recovered: Figure | None  # None where the strong member is no better
    cost: Figure | None
    quality_weak: float
    quality_strong: float
    cost_weak: float | None
    cost_strong: float | None


@dataclass(frozen=True)
class Calibrated:
    """`on` says which prompts: "cross-validated", or "held out" for files of prompts that the
    router never saw. `n_left_out` of those files had trained it."""

    router: str
    version: int
    on: str
    n_left_out: int
    cost_unit: str
    expected: Expected


def sample_of(
    spec: RouterSpec, probability: Floats, weak: Floats, strong: Floats, chars: Floats
) -> Sample:
    step = trained_step(spec)
    costs = [
        np.array([
            cost_of(spec.member(name), spec.cost_unit, n / 4, spec.answer_tokens) for n in chars
        ])
        for name in (step.weak, step.strong)
    ]  # fmt: skip
    return Sample(probability, weak, strong, costs[0], costs[1])


def tested_sample(spec: RouterSpec, router: Router, tested: Tested) -> Sample:
    """By what cross-validation gave when it was trained."""
    probability = held_out_probabilities(tested, router.calibration)
    return sample_of(spec, probability, tested.weak, tested.strong, tested.chars.astype(float))


def fresh_sample(spec: RouterSpec, router: Router, contrast: Contrast) -> Sample:
    """Of prompts that did not train it."""
    chars = np.array([float(len(prompt)) for prompt in contrast.prompts])
    probability = router.probabilities(contrast.prompts)
    return sample_of(spec, probability, contrast.weak, contrast.strong, chars)


def unseen(contrast: Contrast, tested: Tested | None) -> tuple[Contrast, int]:
    """The prompts that did not train the router, each once, and how many did."""
    once, _ = merged(contrast)
    if tested is None:
        return once, 0
    known = np.isin(digests(once.prompts), tested.digests)
    return once.take(~known), int(known.sum())


def choose_threshold(sample: Sample, target: Target) -> float:
    """Raises UsageProblem for what no threshold reaches."""
    if target.strong_share is not None:
        return threshold_for_share(sample.probability, target.strong_share).probability
    values = np.unique(sample.probability)
    highest = min(1.0, float(np.nextafter(values[-1], 2)))
    candidates = np.unique(np.concatenate([values, [highest]]))
    order = np.argsort(sample.probability, kind="stable")
    start = np.searchsorted(sample.probability[order], candidates)
    quality = _mean_from(sample.weak, sample.strong, order, start)
    if target.quality is not None:
        gap = float(sample.strong.mean() - sample.weak.mean())
        if gap <= 0:
            raise UsageProblem(
                "the strong member is no better on these prompts: there is no gap to recover",
                "always use the weak one",
            )
        wanted = float(sample.weak.mean()) + target.quality * gap
        # the highest threshold (the fewest strong calls) that reaches it
        return float(candidates[np.flatnonzero(quality >= wanted - 1e-12)[-1]])
    cost = _mean_from(sample.cost_weak, sample.cost_strong, order, start)
    if not np.isfinite(cost).all():
        raise UsageProblem(
            "a budget needs the costs of both members",
            "--cost NAME=IN/OUT when it is created, or localllm bench for seconds and joules",
        )
    assert target.budget is not None
    allowed = np.flatnonzero(cost <= target.budget + 1e-15)
    if not len(allowed):
        raise UsageProblem(
            f"a budget of {target.budget:g} a prompt is less than the {cost.min():.4g} of the "
            "cheaper member"
        )
    return float(candidates[allowed[int(np.argmax(quality[allowed]))]])


def expect(sample: Sample, threshold: float, seed: int = 0) -> Expected:
    """Percentile bootstrap over prompts; the threshold stays as it is."""
    goes = sample.probability >= threshold
    quality = np.where(goes, sample.strong, sample.weak)
    cost = np.where(goes, sample.cost_strong, sample.cost_weak)
    known = bool(np.isfinite(sample.cost_weak).all() and np.isfinite(sample.cost_strong).all())
    columns = np.stack([goes.astype(float), quality, sample.weak, sample.strong,
                        np.where(np.isfinite(cost), cost, 0.0)])  # fmt: skip
    means = _drawn_means(columns, seed)
    gap = means[:, 3] - means[:, 2]
    gap_here = float(sample.strong.mean() - sample.weak.mean())
    recovered: Figure | None = None
    if gap_here > 1e-9 and np.mean(gap > 1e-9) > 0.5:
        sound = gap > 1e-9
        drawn = (means[sound, 1] - means[sound, 2]) / gap[sound]
        recovered = _figure(float((quality - sample.weak).mean()) / gap_here, drawn)
    return Expected(
        threshold, len(sample), _figure(float(goes.mean()), means[:, 0]),
        _figure(float(quality.mean()), means[:, 1]), recovered,
        _figure(float(cost.mean()), means[:, 4]) if known else None,
        float(sample.weak.mean()), float(sample.strong.mean()),
        float(sample.cost_weak.mean()) if known else None,
        float(sample.cost_strong.mean()) if known else None,
    )  # fmt: skip


def calibrate_router(
    registry: Registry,
    version: KeptVersion,
    spec: RouterSpec,
    router: Router,
    target: Target,
    contrast: Contrast | None = None,
    priced: RouterSpec | None = None,
) -> Calibrated:
    """Set the threshold, as a new version that shares what was learned.

    By cross-validation's probabilities; with `contrast` on those of its prompts that did not
    train the router. `priced` is `spec` with all prices. Raises UsageProblem.
    """
    costs = priced or spec
    tested = None if version.learned is None else open_tested(version.learned)
    n_left_out, on = 0, "cross-validated"
    if contrast is not None:
        fresh, n_left_out = unseen(contrast, tested)
        if len(fresh) < 10:
            raise UsageProblem(
                f"{len(fresh)} prompts that did not train it are too few to set a threshold on",
                "without --data it is set by cross-validation",
            )
        sample, on = fresh_sample(costs, router, fresh), "held out"
    elif tested is None:
        raise UsageProblem("its file has no held-out figures", "give prompts: --data FILE")
    else:
        sample = tested_sample(costs, router, tested)
    expected = expect(sample, choose_threshold(sample, target))
    before = parse_spec(version.text(), str(version.path))[1]
    figures = {
        "strong_share": round(expected.strong_share.value, 4),
        "quality": round(expected.quality.value, 4),
        "prompts": expected.n_prompts,
    }
    text = as_toml(
        with_threshold(spec, expected.threshold),
        {**{name: before[name] for name in ("predictor", "embedder", "data") if name in before},
         "by": "calibrate", "on": on, "target_share": expected.strong_share.value,
         "figures": figures},
    )  # fmt: skip
    kept = Routers(registry).add(version.router, text, made_by="calibrate", like=version)
    return Calibrated(kept.name, kept.version, on, n_left_out, spec.cost_unit, expected)


def share_of(text: str, what: str) -> float:
    """ "30%" and "0.3" are the same; "30" is not taken for either. Raises UsageProblem."""
    bare = text.strip()
    try:
        value = float(bare.removesuffix("%").strip()) / (100 if bare.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise UsageProblem(f"{what} {text!r} is no share", f"{what} 30%")
    return value


def _mean_from(weak: Floats, strong: Floats, order: Ints, start: np.ndarray) -> Floats:
    """The mean where the prompts from place `start` on (by probability) go to the strong one."""
    gains = np.concatenate([[0.0], np.cumsum((strong - weak)[order][::-1])])
    return np.asarray(float(weak.mean()) + gains[len(weak) - start] / len(weak))


def _drawn_means(columns: Floats, seed: int) -> Floats:
    """Means of every row of `columns` [k, n] over resampled prompts: [resamples, k]."""
    random = np.random.default_rng(seed)
    n = columns.shape[1]
    counts = (np.bincount(random.integers(0, n, n), minlength=n) for _ in range(_RESAMPLES))
    return np.asarray(np.array([columns @ drawn for drawn in counts]) / n)


def _figure(value: float, drawn: Floats) -> Figure:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Figure(value, float(low), float(high))
