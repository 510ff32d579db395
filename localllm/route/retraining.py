"""A router taught again with what people thought of its answers: kept only if it got better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from localllm.errors import UsageProblem
from localllm.registry import Registry
from localllm.registry.decisions import Decisions
from localllm.registry.routers import Routers
from localllm.route.contrast import Contrast, Floats, joined, merged
from localllm.route.learned import open_lessons
from localllm.route.opening import OpenRouter
from localllm.route.panel import Panel
from localllm.route.pool.reading import parse_spec
from localllm.route.predictors.lexical import Lexical
from localllm.route.router import Router
from localllm.route.teaching import (
    Columns,
    Material,
    helper_named,
    read_material,
    teach,
    trained_step,
    trainer_of,
)
from localllm.route.training import train_router
from localllm.route.voting import split_votes, votes_of

MIN_JUDGES = 10  # held-out prompts, below which nothing can be said
_SURE = 0.9  # of resamples in which the new one is better
_RESAMPLES = 2000
_SURE_DOMAIN = 0.5


@dataclass(frozen=True)
class Retrained:
    """`loss` is the mean squared error of the probability that strong is needed, on feedback that
    trained neither; `better` is the share of resamples in which the new one's is lower."""

    router: str
    version: int  # in use now
    replaced: bool
    why: str
    n_votes: int
    n_left_out: int
    n_capped: int
    n_trained: int
    n_judged: int
    loss_before: float
    loss_after: float
    better: float


def retrain(
    registry: Registry,
    opened: OpenRouter,
    paths: Sequence[Path] = (),
    columns: Columns | None = None,
    *,
    force: bool = False,
) -> Retrained:
    """Train on `paths`, or on what it was trained on before where there are none, and on four
    fifths of the feedback; judge by the last fifth, and replace the router only if it is better
    there. Raises UsageProblem where there is too little to say."""
    spec, before = opened.spec, opened.router
    step = trained_step(spec)
    if before is None:
        raise UsageProblem(
            "this router was not trained yet", f"localllm route train {opened.name} --data FILE"
        )
    decisions = Decisions(registry).of(opened.name, voted=True)
    votes = votes_of(decisions, step.weak, step.strong)
    learn, judge = split_votes(_with_domains(votes.contrast, before))
    judge = merged(judge)[0] if len(judge) else judge
    if len(judge) < MIN_JUDGES:
        raise UsageProblem(
            f"{votes.n_votes} votes leave {len(judge)} prompts to judge by; it takes {MIN_JUDGES}",
            "localllm route feedback ID good|bad, or /good and /bad in chat",
        )
    lesson, kind, named = _lesson(opened, learn, judge, paths, columns)
    train = trainer_of(kind, named, lesson, registry)
    trained = train_router(lesson.contrast, step.weak, step.strong, train)
    losses = (_losses(before, judge), _losses(trained.router, judge))
    better = _share_better(*losses)
    held_up = held_up_by(votes.only_by, judge.prompts, losses)
    sure = better >= _SURE and held_up is None
    replaced = force or sure
    version = opened.kept.version
    if replaced:
        taught = teach(
            registry, opened.version, spec, lesson, kind=kind, helper=named,
            files=[path.name for path in paths], made_by="retrain", trained=trained,
        )  # fmt: skip
        version = taught.version
    why = "better on held-out feedback" if sure else "not surely better"
    if better >= _SURE and held_up is not None:
        why = f"better only by the votes of {held_up}, and worse for all others"
    return Retrained(
        opened.name, version, replaced, "as told (--force)" if force else why, votes.n_votes,
        votes.n_left_out, votes.n_capped, len(lesson.contrast), len(judge), float(losses[0].mean()),
        float(losses[1].mean()), better,
    )  # fmt: skip


def held_up_by(
    only_by: Mapping[str, frozenset[str]], prompts: Sequence[str], losses: tuple[Floats, Floats]
) -> str | None:
    """The source without whose votes the new router is rather worse than the old one, None where
    there is no such, or where too little is left to say so. `losses` are (old's, new's) on
    `prompts`."""
    for source, alone in only_by.items():
        others = np.array([prompt not in alone for prompt in prompts], dtype=np.bool_)
        if MIN_JUDGES <= others.sum() < len(prompts):
            before, after = (loss[others] for loss in losses)
            if _share_better(before, after) < 0.5:
                return source
    return None


def _lesson(
    opened: OpenRouter, learn: Contrast, judge: Contrast,
    paths: Sequence[Path], columns: Columns | None,
) -> tuple[Material, str, str | None]:  # fmt: skip
    """What to learn from, and by which predictor (and which model beside it) it is learned."""
    contrast = learn
    panels: tuple[Panel, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    if paths:
        material = read_material(paths, opened.spec, columns)
        contrast = joined([_without(material.contrast, judge), learn])
        panels, pairs = material.panels, material.pairs
    elif opened.version.learned is not None:
        before = open_lessons(opened.version.learned)
        if before is not None:
            contrast = joined([_without(before, judge), learn])
    made = parse_spec(opened.version.text(), str(opened.version.path))[1]
    kind, helper = helper_named(made)
    # a panel knows nothing of prompts that only feedback has
    lesson = Material(contrast, panels if kind != "factors" else (), pairs)
    return lesson, kind, helper


def roll_back(registry: Registry, name: str, number: int | None) -> tuple[int, int]:
    """(from, to): the version before the one in use, or `number`. Raises UsageProblem."""
    store = Routers(registry)
    kept = store.find(name)
    if number is None:
        earlier = [one.number for one in kept.versions if one.number < kept.version]
        if not earlier:
            raise UsageProblem(f"router {kept.name} has no version before {kept.version}")
        number = earlier[-1]
    store.use(kept.name, number)
    return kept.version, number


def _with_domains(contrast: Contrast, router: Router) -> Contrast:
    """Feedback comes without fields: those that the router takes the prompts for, where it is
    sure, so that what was said of one prompt of a field counts for its others."""
    predictor = router.predictor
    if not isinstance(predictor, Lexical):
        return contrast
    found = [predictor.likely_domain(prompt) for prompt in contrast.prompts]
    domains = tuple(one[0] if one is not None and one[1] >= _SURE_DOMAIN else "" for one in found)
    return replace(contrast, domains=domains)


def _without(contrast: Contrast, judge: Contrast) -> Contrast:
    """What judges must not teach."""
    held_out = set(judge.prompts)
    return contrast.take(np.array([p not in held_out for p in contrast.prompts], dtype=np.bool_))


def _losses(router: Router, contrast: Contrast) -> Floats:
    needed = (contrast.gap > 0).astype(np.float64)
    return np.asarray((router.probabilities(contrast.prompts) - needed) ** 2)


def _share_better(before: Floats, after: Floats) -> float:
    """Of resamples of the prompts; a draw counts half."""
    random = np.random.default_rng(0)
    gain, n = before - after, len(before)
    drawn = np.array([gain[random.integers(0, n, n)].sum() for _ in range(_RESAMPLES)])
    return float(np.mean(drawn > 0) + np.mean(drawn == 0) / 2)
