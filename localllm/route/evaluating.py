"""What a router is worth: curves, APGR, CPT, cost, apart for benchmarks and languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from localllm.errors import UsageProblem
from localllm.registry.routers import KeptVersion
from localllm.route.calibrating import fresh_sample, tested_sample, unseen
from localllm.route.contrast import MIN_PROMPTS, Contrast, Floats, merged
from localllm.route.expecting import Expected, Sample, expect
from localllm.route.learned import Tested, open_tested, tested_of
from localllm.route.measuring.calibration import Calibration
from localllm.route.measuring.curve import Curve, curve
from localllm.route.measuring.intervals import Difference, Figure, measure
from localllm.route.pool.spec import RouterSpec
from localllm.route.router import Router
from localllm.route.teaching import chosen_step
from localllm.route.training import Trained, languages

ALL = "all"
_CURVE_POINTS = 100


@dataclass(frozen=True)
class GroupFigures:
    """Figures of one group of prompts. `curve` is (share of strong calls, quality). `against` are
    APGR less that of a baseline on the same prompts. `why_none` says why there are no figures."""

    name: str
    kind: str  # "all", "benchmark" or "language"
    n_prompts: int
    quality_weak: float
    quality_strong: float
    apgr: Figure | None = None
    cpt50: Figure | None = None
    cpt80: Figure | None = None
    against: Mapping[str, Difference] | None = None
    at_threshold: Expected | None = None
    curve: Sequence[tuple[float, float]] = ()
    length_curve: Sequence[tuple[float, float]] = ()
    why_none: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """`on` is "cross-validated" (the prompts trained the router, but each is scored by a model
    that did not see it), or "held out". `n_left_out` prompts of the files had trained it."""

    router: str
    version: int
    on: str
    n_prompts: int
    n_left_out: int
    weak: str
    strong: str
    threshold: float
    cost_unit: str
    groups: tuple[GroupFigures, ...]


@dataclass(frozen=True)
class _Scored:
    """Prompts with scores to rank by, and the same in probabilities."""

    ranks: Any  # from a mask to the scores of its prompts
    sample: Sample
    chars: Floats
    benchmarks: Sequence[str]
    languages: Sequence[str]


def evaluate_stored(
    version: KeptVersion, spec: RouterSpec, calibration: Calibration
) -> Evaluation:  # fmt: skip
    """By what cross-validation gave when the router was trained. Raises UsageProblem."""
    tested = None if version.learned is None else open_tested(version.learned)
    if tested is None:
        raise UsageProblem(
            "there are no held-out figures of this router", "localllm route eval NAME --data FILE"
        )
    scored = _of_tested(spec, calibration, tested)
    return _evaluation(version, spec, "cross-validated", 0, scored)


def evaluate_trained(
    version: KeptVersion, spec: RouterSpec, trained: Trained, contrast: Contrast
) -> Evaluation:
    """By cross-validation made now, on prompts that may have trained the router in use."""
    once, _ = merged(contrast)
    scored = _of_tested(spec, trained.router.calibration, tested_of(once, trained))
    return _evaluation(version, spec, "cross-validated", 0, scored)


def evaluate_fresh(
    version: KeptVersion, spec: RouterSpec, router: Router, contrast: Contrast
) -> Evaluation | None:
    """On the prompts that did not train the router; None where those are too few."""
    tested = None if version.learned is None else open_tested(version.learned)
    fresh, n_left_out = unseen(contrast, tested)
    if len(fresh) < MIN_PROMPTS:
        return None
    sample = fresh_sample(spec, router, fresh)
    chars = np.array([float(len(prompt)) for prompt in fresh.prompts])
    scored = _Scored(
        lambda which: sample.probability[which], sample, chars, fresh.benchmarks, languages(fresh)
    )
    return _evaluation(version, spec, "held out", n_left_out, scored)


def _of_tested(spec: RouterSpec, calibration: Calibration, tested: Tested) -> _Scored:
    sample = tested_sample(spec, calibration, tested)
    return _Scored(
        tested.held_out.ranks, sample, tested.chars.astype(float), tested.benchmarks,
        tested.languages,
    )  # fmt: skip


def _evaluation(
    version: KeptVersion, spec: RouterSpec, on: str, n_left_out: int, scored: _Scored
) -> Evaluation:
    step = chosen_step(spec)
    n = len(scored.sample)
    groups = [(ALL, ALL, np.ones(n, dtype=np.bool_))]
    for kind, names in (("benchmark", scored.benchmarks), ("language", scored.languages)):
        distinct = sorted(set(names))
        if len(distinct) > 1:
            groups += [(name or "(none)", kind, np.array([own == name for own in names]))
                       for name in distinct]  # fmt: skip
    return Evaluation(
        version.router, version.number, on, n, n_left_out, step.weak, step.strong, step.threshold,
        spec.cost_unit, tuple(_group(*one, scored, step.threshold) for one in groups),
    )  # fmt: skip


def _group(
    name: str, kind: str, which: np.ndarray, scored: _Scored, threshold: float
) -> GroupFigures:
    whole = scored.sample
    sample = Sample(
        whole.probability[which], whole.weak[which], whole.strong[which],
        whole.cost_weak[which], whole.cost_strong[which],
    )  # fmt: skip
    n = len(sample)
    weak, strong = float(sample.weak.mean()), float(sample.strong.mean())
    at = expect(sample, threshold)
    if n < MIN_PROMPTS:
        why = f"fewer than {MIN_PROMPTS} prompts"
        return GroupFigures(name, kind, n, weak, strong, at_threshold=at, why_none=why)
    length = scored.chars[which]
    baselines = {"random": np.zeros(n), "length": length}
    try:
        found = measure(scored.ranks(which), sample.weak, sample.strong, baselines)
    except UsageProblem as problem:
        return GroupFigures(name, kind, n, weak, strong, at_threshold=at, why_none=problem.message)
    return GroupFigures(
        name, kind, n, weak, strong, found.apgr, found.cpt50, found.cpt80, found.against, at,
        _thinned(found.curve), _thinned(curve(length, sample.weak, sample.strong)),
    )  # fmt: skip


def _thinned(found: Curve) -> tuple[tuple[float, float], ...]:
    """The exact curve at its own corners where those are few, else at equal steps."""
    if len(found.strong_share) <= _CURVE_POINTS:
        shares = [float(share) for share in found.strong_share]
    else:
        shares = [i / _CURVE_POINTS for i in range(_CURVE_POINTS + 1)]
    return tuple((round(s, 6), round(found.quality_at(s), 6)) for s in shares)
