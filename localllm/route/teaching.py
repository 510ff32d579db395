"""Training a named router: from files or votes to a new version of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from localllm.errors import UsageProblem
from localllm.registry import Registry
from localllm.registry.routers import KeptVersion, Routers
from localllm.route.asking import asker_named
from localllm.route.contrast import FOLD_PROMPTS, Contrast, joined, merged
from localllm.route.embedding import embedder_named
from localllm.route.learned import Tested, pack, tested_of
from localllm.route.measuring.calibration import Calibration
from localllm.route.measuring.crossval import Train
from localllm.route.measuring.curve import curve
from localllm.route.panel import Panel
from localllm.route.pool.spec import RouterSpec
from localllm.route.pool.steps import CascadeStep, PredictorStep
from localllm.route.pool.writing import as_toml
from localllm.route.predictors.base import Predictor
from localllm.route.predictors.embedded import trainer as embedded_trainer
from localllm.route.predictors.factors import train_factors
from localllm.route.predictors.llm import trainer as llm_trainer
from localllm.route.reading.files import read_panel
from localllm.route.router import Threshold, threshold_for_share
from localllm.route.training import DEFAULT, TRAINERS, Trained, train_router, trainer
from localllm.ui import Progress

EMBEDDED, LLM = "embedded", "llm"
KINDS = (*TRAINERS, EMBEDDED, LLM)
_HELPER = {EMBEDDED: "embedder", LLM: "model"}  # as descriptions call the model beside it
_FIRST_SHARE = 0.5  # of strong calls, until `route calibrate` says otherwise


@dataclass(frozen=True)
class Columns:
    """What the data call the weak and the strong member; None: by name, or by who is better."""

    weak: str | None = None
    strong: str | None = None


@dataclass(frozen=True)
class Material:
    """What a router learns from: one contrast of the two members, and whatever else the files
    say of other models, which only `factors` uses."""

    contrast: Contrast
    panels: tuple[Panel, ...]
    pairs: tuple[tuple[str, str], ...]  # (weak, strong) as each file calls them


@dataclass(frozen=True)
class Taught:
    """A version that was trained. No figure is on a prompt that trained what is measured: all are
    cross-validated. `recovered` of the gap at the `threshold`, NaN where there is no gap."""

    router: str
    version: int
    predictor: str
    n_prompts: int
    n_repeated: int
    n_contradicting: int
    weak: str
    strong: str
    quality_weak: float
    quality_strong: float
    apgr: float | None
    calibration_error: float
    threshold: float
    strong_share: float
    files: tuple[str, ...] = ()


def read_material(
    paths: Sequence[Path], spec: RouterSpec, columns: Columns | None = None
) -> Material:
    """Raises FileGone, DamagedFile, UsageProblem: see reading.files."""
    step = trained_step(spec)
    if not paths:
        raise UsageProblem("there is nothing to learn from", "--data FILE")
    panels = tuple(read_panel(path) for path in paths)
    pairs = tuple(
        _pair(panel, spec, step, columns or Columns(), path)
        for panel, path in zip(panels, paths, strict=True)
    )
    parts = [panel.contrast(*pair) for panel, pair in zip(panels, pairs, strict=True)]
    return Material(joined(parts), panels, pairs)


def trained_step(spec: RouterSpec) -> PredictorStep:
    """Raises UsageProblem for a router that does not learn this way."""
    if isinstance(spec.last, CascadeStep):
        raise UsageProblem(
            "a cascade learns from its weak member's judged answers with their signals",
            "localllm route label NAME --prompts FILE --out FILE, then train on that",
        )
    if spec.predictor is None:
        raise UsageProblem(
            f"this router's last step is {spec.last.use}, which is not trained",
            "make one with --strategy predictor",
        )
    return spec.predictor


def teach(
    registry: Registry,
    version: KeptVersion,
    spec: RouterSpec,
    material: Material,
    *,
    kind: str = DEFAULT,
    helper: str | None = None,
    progress: Progress | None = None,
    files: Sequence[str] = (),
    made_by: str = "train",
    trained: Trained | None = None,
) -> Taught:
    """Train, and keep the result as the router's new version in use.

    The threshold keeps the share of strong calls that the version before was set to. Where there
    was none, a threshold that was given stays as it is, and half is the share where there was none
    of either. Raises UsageProblem for data that teach nothing.
    """
    step = trained_step(spec)
    if trained is None:
        train = trainer_of(kind, helper, material, registry, progress)
        trained = train_router(material.contrast, step.weak, step.strong, train)
    once, _ = merged(material.contrast)
    tested = tested_of(once, trained)
    target, found = _threshold(version, step, tested, trained.router.calibration)
    spec = with_threshold(spec, found.probability)
    figures = _figures(trained, tested, found.strong_share)
    text = as_toml(
        spec,
        {"by": made_by, "predictor": kind, "data": list(files), **target,
         "figures": figures, **({_HELPER[kind]: helper} if helper else {})},
    )  # fmt: skip
    kept = Routers(registry).add(
        version.router, text, made_by=made_by, learned=pack(trained.router, tested, once)
    )
    return Taught(
        kept.name, kept.version, kind, trained.n_prompts, trained.n_repeated,
        trained.n_contradicting, step.weak, step.strong, float(once.weak.mean()),
        float(once.strong.mean()), figures.get("apgr"), trained.reliability.error,
        found.probability, found.strong_share, tuple(files),
    )  # fmt: skip


def trainer_of(
    kind: str, helper: str | None, material: Material | None, registry: Registry,
    progress: Progress | None = None,
) -> Train:  # fmt: skip
    """The function that trains a predictor of this kind. `helper` names the model that it needs:
    the one that embeds, or the one that is asked. Raises UsageProblem, MissingExtra."""
    if kind not in _HELPER and helper is not None:
        raise UsageProblem(
            f"--predictor {kind} needs no model beside it",
            f"--embedder is for {EMBEDDED}, --model for {LLM}",
        )
    if kind == EMBEDDED:
        return embedded_trainer(embedder_named(helper, registry))
    if kind == LLM:
        if helper is None:
            raise UsageProblem(
                f"--predictor {LLM} asks a model: which?", "--model NAME, or NAME+ADAPTER"
            )
        return llm_trainer(asker_named(helper, registry, progress))
    if kind not in TRAINERS:
        raise UsageProblem(f"no predictor is called {kind!r}", f"choose one of {', '.join(KINDS)}")
    many = material is not None and len(material.panels) == 1
    if kind == "factors" and material is not None and many:
        return _factors_of(material.panels[0], material.pairs[0])
    return trainer(kind)


def chosen_step(spec: RouterSpec) -> PredictorStep | CascadeStep:
    """The last step, where it decides by a probability. Raises UsageProblem."""
    if not isinstance(spec.last, PredictorStep | CascadeStep):
        raise UsageProblem(
            f"this router's last step is {spec.last.use}, which has no probability to go by",
            "make one with --strategy predictor or cascade",
        )
    return spec.last


def helper_named(made: Mapping[str, Any]) -> tuple[str, str | None]:
    """(kind of predictor, the model that it needs), as the version's description says."""
    kind = made.get("predictor")
    kind = kind if isinstance(kind, str) else DEFAULT
    helper = made.get(_HELPER.get(kind, ""))
    return kind, helper if isinstance(helper, str) else None


def with_threshold(spec: RouterSpec, threshold: float) -> RouterSpec:
    step = chosen_step(spec)
    return replace(spec, steps=(*spec.steps[:-1], replace(step, threshold=threshold)))


def held_out_probabilities(tested: Tested, calibration: Calibration) -> np.ndarray:
    """Of every training prompt, by the predictor of the fold that did not see it."""
    return calibration.probability(tested.held_out.scores)


def _figures(trained: Trained, tested: Tested, share: float) -> dict[str, Any]:
    found: dict[str, Any] = {
        "prompts": trained.n_prompts,
        "quality_weak": round(float(tested.weak.mean()), 4),
        "quality_strong": round(float(tested.strong.mean()), 4),
        "strong_share": round(share, 4),
        "calibration_error": round(trained.reliability.error, 4),
    }
    everything = np.ones(len(tested), dtype=np.bool_)
    if tested.gap.mean() > 1e-9:
        whole = curve(tested.held_out.ranks(everything), tested.weak, tested.strong)
        found["apgr"] = round(whole.apgr(), 4)
    return found


def _threshold(
    version: KeptVersion, step: PredictorStep, tested: Tested, calibration: Calibration
) -> tuple[dict[str, float], Threshold]:
    """What the version says that it aims for, and the threshold for it."""
    probabilities = held_out_probabilities(tested, calibration)
    share = share_before(version)
    if share is None and step.threshold != PredictorStep.threshold:
        goes = float(np.mean(probabilities >= step.threshold))
        return {}, Threshold(step.threshold, goes)
    share = _FIRST_SHARE if share is None else share
    return {"target_share": share}, threshold_for_share(probabilities, share)


def share_before(version: KeptVersion) -> float | None:
    import tomllib

    made = tomllib.loads(version.text()).get("made", {})
    share = made.get("target_share") if isinstance(made, Mapping) else None
    return float(share) if isinstance(share, int | float) and 0 <= share <= 1 else None


def _pair(
    panel: Panel, spec: RouterSpec, step: PredictorStep, columns: Columns, path: Path
) -> tuple[str, str]:
    """Which of the data's models are the two members."""
    names = [_named(panel, spec, step.weak, columns.weak),
             _named(panel, spec, step.strong, columns.strong)]  # fmt: skip
    if names[0] is not None and names[1] is not None:
        return names[0], names[1]
    if (panel.models.count("weak"), panel.models.count("strong")) == (1, 1):
        return "weak", "strong"
    if len(panel.models) != 2:
        raise UsageProblem(
            f"{path} has the models {', '.join(panel.models[:8])}: which are "
            f"{step.weak} and {step.strong}?",
            "--weak NAME --strong NAME, as the data call them",
        )
    if names[0] is not None or names[1] is not None:
        other = next(m for m in panel.models if m not in names)
        return (names[0] or other, names[1] or other)
    return panel.pair()


def _named(panel: Panel, spec: RouterSpec, member: str, given: str | None) -> str | None:
    if given is not None:
        if given not in panel.models:
            raise UsageProblem(
                f"these data have no model {given!r}", f"they have {', '.join(panel.models[:8])}"
            )
        return given
    names = (member, spec.member(member).ref)
    return next((name for name in names if name and name in panel.models), None)


def _factors_of(panel: Panel, pair: tuple[str, str]) -> Train:
    """With every model of the file, for the prompts that a contrast holds."""
    place = {prompt: i for i, prompt in enumerate(panel.prompts)}

    def train(contrast: Contrast) -> Predictor:
        contrast.check_trainable(FOLD_PROMPTS)
        rows = np.array([place[prompt] for prompt in contrast.prompts], dtype=np.int64)
        part = Panel(
            contrast.prompts, panel.models, panel.quality[rows], contrast.domains,
            contrast.benchmarks,
        )  # fmt: skip
        seen = np.asarray(np.isfinite(part.quality).any(axis=0))
        kept = tuple(name for name, there in zip(part.models, seen, strict=True) if there)
        part = replace(part, models=kept, quality=part.quality[:, seen])
        return train_factors(part, *pair)

    return train
