"""A cascade's combiner fitted to labelled answers, as the router's new version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from localllm.errors import UsageProblem
from localllm.registry import Registry
from localllm.registry.routers import KeptVersion, Routers
from localllm.route.cascades.fitting import fit_combiner
from localllm.route.cascades.keeping import pack_cascade, tested_rows
from localllm.route.cascades.rows import read_signals
from localllm.route.measuring.calibration import Calibration, Reliability
from localllm.route.measuring.curve import curve
from localllm.route.pool.spec import RouterSpec
from localllm.route.pool.steps import CascadeStep, Combiner
from localllm.route.pool.writing import as_toml
from localllm.route.router import threshold_for_share
from localllm.route.teaching import Columns, share_before

IDENTITY = Calibration(1.0, 0.0)  # of scores that are logits of the probability already


@dataclass(frozen=True)
class TaughtCascade:
    """A version whose combiner was fitted. `auc` of telling good answers of the weak member from
    bad ones by its signals, and `reliability` of P(good), are on rows left out of the fit;
    `auc_by_hand` and `error_by_hand` are of the hand-set weights on the same rows."""

    router: str
    version: int
    n_prompts: int
    n_left_out: int
    weak: str
    strong: str
    quality_weak: float
    quality_strong: float
    combiner: Combiner
    auc: float
    auc_by_hand: float
    reliability: Reliability
    error_by_hand: float
    apgr: float | None
    threshold: float
    strong_share: float
    files: tuple[str, ...]


def teach_cascade(
    registry: Registry, version: KeptVersion, spec: RouterSpec, paths: Sequence[Path],
    columns: Columns | None = None,
) -> TaughtCascade:  # fmt: skip
    """The threshold stays as it is, or goes to the share of strong calls that the version before
    was calibrated to. Raises UsageProblem for data that teach nothing; see cascades.rows."""
    step = spec.last
    assert isinstance(step, CascadeStep)
    if not paths:
        raise UsageProblem(
            "there is nothing to learn from",
            f"localllm route label {version.router} --prompts FILE --out FILE, then --data FILE",
        )
    names = columns or Columns()
    rows = read_signals(paths, step, names.weak, names.strong)
    fitted = fit_combiner(rows)
    tested = tested_rows(rows.contrast, fitted)
    probability = IDENTITY.probability(tested.held_out.scores)
    share = share_before(version)
    limit = step.threshold
    if share is not None:
        limit = threshold_for_share(probability, share).probability
    apgr = None
    if tested.gap.mean() > 1e-9:
        ranks = tested.held_out.ranks(np.ones(len(tested), dtype=np.bool_))
        apgr = curve(ranks, tested.weak, tested.strong).apgr()
    goes = float(np.mean(probability >= limit))
    figures = {
        "prompts": len(rows), "quality_weak": round(float(tested.weak.mean()), 4),
        "quality_strong": round(float(tested.strong.mean()), 4), "strong_share": round(goes, 4),
        "auc": round(fitted.auc, 4), "calibration_error": round(fitted.reliability.error, 4),
    }  # fmt: skip
    if apgr is not None:
        figures["apgr"] = round(apgr, 4)
    kept_step = replace(step, threshold=limit, combiner=Combiner())  # the fitted one lies beside
    made = {"by": "train", "data": [path.name for path in paths], "figures": figures}
    text = as_toml(
        replace(spec, steps=(*spec.steps[:-1], kept_step)),
        made if share is None else {**made, "target_share": share},
    )
    kept = Routers(registry).add(
        version.router, text, made_by="train", learned=pack_cascade(rows, fitted, step)
    )
    return TaughtCascade(
        kept.name, kept.version, len(rows), rows.n_left_out, step.weak, step.strong,
        float(tested.weak.mean()), float(tested.strong.mean()), fitted.combiner, fitted.auc,
        fitted.auc_by_hand, fitted.reliability, fitted.reliability_by_hand.error, apgr, limit,
        goes, tuple(path.name for path in paths),
    )  # fmt: skip
