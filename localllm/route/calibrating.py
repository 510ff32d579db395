"""The threshold for a share of strong calls, a quality or a budget, and what it will bring."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from localllm.errors import UsageProblem
from localllm.registry import Registry
from localllm.registry.routers import KeptVersion, Routers
from localllm.route.cascades.fitting import needed_logit
from localllm.route.cascades.rows import Signalled
from localllm.route.cascades.teaching import IDENTITY
from localllm.route.contrast import Contrast, Floats, merged
from localllm.route.expecting import Expected, Sample, Target, choose_threshold, expect
from localllm.route.learned import Tested, digests, open_tested
from localllm.route.measuring.calibration import Calibration
from localllm.route.pool.member import cost_of
from localllm.route.pool.reading import parse_spec
from localllm.route.pool.spec import RouterSpec
from localllm.route.pool.steps import CascadeStep
from localllm.route.pool.writing import as_toml
from localllm.route.router import Router
from localllm.route.teaching import chosen_step, held_out_probabilities, with_threshold

_MIN_FRESH = 10  # prompts


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
    """A cascade's weak member is paid for all its samples, and the strong one comes on top."""
    step = chosen_step(spec)
    costs = [
        np.array([
            cost_of(spec.member(name), spec.cost_unit, n / 4, spec.answer_tokens) for n in chars
        ])
        for name in (step.weak, step.strong)
    ]  # fmt: skip
    if isinstance(step, CascadeStep):
        drawn = step.samples if "agreement" in step.signals else 1
        weakly = costs[0] * drawn
        return Sample(probability, weak, strong, weakly, weakly + costs[1])
    return Sample(probability, weak, strong, costs[0], costs[1])


def tested_sample(spec: RouterSpec, calibration: Calibration, tested: Tested) -> Sample:
    """By what cross-validation gave when it was trained."""
    probability = held_out_probabilities(tested, calibration)
    return sample_of(spec, probability, tested.weak, tested.strong, tested.chars.astype(float))


def fresh_sample(spec: RouterSpec, router: Router, contrast: Contrast) -> Sample:
    """Of prompts that did not train it."""
    chars = np.array([float(len(prompt)) for prompt in contrast.prompts])
    probability = router.probabilities(contrast.prompts)
    return sample_of(spec, probability, contrast.weak, contrast.strong, chars)


def fresh_rows_sample(spec: RouterSpec, rows: Signalled) -> Sample:
    """Of answers that a cascade's combiner was not fitted to."""
    step = spec.last
    assert isinstance(step, CascadeStep)
    probability = IDENTITY.probability(needed_logit(rows, step.combiner))
    contrast = rows.contrast
    chars = np.array([float(len(prompt)) for prompt in contrast.prompts])
    return sample_of(spec, probability, contrast.weak, contrast.strong, chars)


def unseen(contrast: Contrast, tested: Tested | None) -> tuple[Contrast, int]:
    """The prompts that did not train the router, each once, and how many did."""
    once, _ = merged(contrast)
    if tested is None:
        return once, 0
    known = np.isin(digests(once.prompts), tested.digests)
    return once.take(~known), int(known.sum())


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
    tested = None if version.learned is None else open_tested(version.learned)
    costs = priced or spec
    if contrast is None:
        sample = tested_sample(costs, router.calibration, _there(tested))
        return _calibrated(registry, version, spec, target, sample, "cross-validated", 0)
    fresh, n_left_out = unseen(contrast, tested)
    sample = _enough(fresh_sample(costs, router, fresh))
    return _calibrated(registry, version, spec, target, sample, "held out", n_left_out)


def calibrate_cascade(
    registry: Registry, version: KeptVersion, spec: RouterSpec, target: Target,
    rows: Signalled | None, priced: RouterSpec,
) -> Calibrated:  # fmt: skip
    """The same for a cascade; `priced` has the fitted combiner, `rows` are labelled answers."""
    tested = None if version.learned is None else open_tested(version.learned)
    if rows is None and tested is None:
        raise UsageProblem(
            f"cascade {version.router} was not fitted to judged answers yet",
            f"localllm route label {version.router} --prompts FILE --out FILE, then route train",
        )
    if rows is None:
        sample = tested_sample(priced, IDENTITY, _there(tested))
        return _calibrated(registry, version, spec, target, sample, "cross-validated", 0)
    n = len(rows)
    if tested is not None:
        rows = rows.take(~np.isin(digests(rows.contrast.prompts), tested.digests))
    sample = _enough(fresh_rows_sample(priced, rows))
    return _calibrated(registry, version, spec, target, sample, "held out", n - len(rows))


def _there(tested: Tested | None) -> Tested:
    if tested is None:
        raise UsageProblem("its file has no held-out figures", "give prompts: --data FILE")
    return tested


def _enough(sample: Sample) -> Sample:
    if len(sample) < _MIN_FRESH:
        raise UsageProblem(
            f"{len(sample)} prompts that did not train it are too few to set a threshold on",
            "without --data it is set by cross-validation",
        )
    return sample


def _calibrated(
    registry: Registry, version: KeptVersion, spec: RouterSpec, target: Target, sample: Sample,
    on: str, n_left_out: int,
) -> Calibrated:  # fmt: skip
    """Keep the threshold as a new version."""
    expected = expect(sample, choose_threshold(sample, target))
    before = parse_spec(version.text(), str(version.path))[1]
    figures = {
        "strong_share": round(expected.strong_share.value, 4),
        "quality": round(expected.quality.value, 4),
        "prompts": expected.n_prompts,
    }
    how = {n: before[n] for n in ("predictor", "embedder", "model", "data") if n in before}
    text = as_toml(
        with_threshold(spec, expected.threshold),
        {**how,
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
