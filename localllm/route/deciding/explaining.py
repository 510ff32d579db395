"""Why a prompt goes where it goes: every step, every word, the nearest known prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from localllm.route.cascades.keeping import KeptCombiner
from localllm.route.deciding.asked import Asked
from localllm.route.deciding.decider import Choice, Decider, Stepped
from localllm.route.learned import Known, Neighbour, nearest
from localllm.route.measuring.calibration import Calibration
from localllm.route.pool.steps import CENTRE, CascadeStep, PredictorStep
from localllm.route.predictors.base import Part
from localllm.route.predictors.embedded import Embedded, occlusion
from localllm.route.predictors.llm import Llm
from localllm.route.router import Router
from localllm.route.text.cues import read
from localllm.route.text.words import MAX_TERM_CHARS, tokens_in

_BY_NAME = ("word", "domain")  # kinds of parts of which there are many


@dataclass(frozen=True)
class MarkedWord:
    """`prompt[start:end]` moves the score by `amount`, upwards for the strong member."""

    start: int
    end: int
    text: str
    amount: float


@dataclass(frozen=True)
class ScoreExplained:
    """`parts` add up to `score`, and the probability is logistic(slope x score + intercept).

    `method` is "additive" where every word has its own share; "occlusion" where a sentence's
    amount in `words` is how much lower the score is without it, which need not add up.
    """

    probability: float
    score: float
    slope: float
    intercept: float
    method: str
    parts: tuple[Part, ...]
    words: tuple[MarkedWord, ...]


@dataclass(frozen=True)
class Explained:
    """`decided` False where a step before the predictor chose: `score` is then what it would have
    said. `guard` is what the privacy guard found (kinds and counts)."""

    router: str
    version: int
    member: str
    why: str
    probability: float | None
    threshold: float | None
    cost: float | None
    cascade: bool
    steps: tuple[Stepped, ...]
    guard: Mapping[str, Any]
    score: ScoreExplained | None
    score_decided: bool
    weak: str | None
    strong: str | None
    neighbours: tuple[Neighbour, ...]
    signals: CascadeExplained | None = None


@dataclass(frozen=True)
class CascadeExplained:
    """How a cascade judges its weak member's answer: `weights` by signal, with the `means` over the
    `n_fitted` answers that they were fitted to (0: set by hand, and no means). Of an answer that
    was asked for, `parts` add up to `score`, and P(strong is needed) is logistic(score)."""

    intercept: float
    weights: Mapping[str, float]
    means: Mapping[str, float]
    n_fitted: int
    measured: Mapping[str, float]
    answer: str | None = None
    parts: tuple[Part, ...] = ()
    score: float | None = None
    probability: float | None = None


def explain_cascade(
    step: CascadeStep, kept: KeptCombiner | None, measured: Mapping[str, float] | None = None,
    answer: str | None = None,
) -> CascadeExplained:  # fmt: skip
    """`step` has the weights in use; `measured` are the signals of an answer."""
    weigh = step.combiner
    weights: dict[str, float] = {name: float(getattr(weigh, name)) for name in step.signals}
    means = {} if kept is None else kept.means
    found = CascadeExplained(
        weigh.intercept, weights, means, 0 if kept is None else kept.n_rows, measured or {}, answer
    )
    if measured is None:
        return found
    parts = (Part("average", "", -weigh.intercept), *(
        Part("signal", name, -weights[name] * (value - CENTRE))
        for name, value in measured.items() if name in weights
    ))  # fmt: skip
    score = sum(part.amount for part in parts)
    probability = float(Calibration(1.0, 0.0).probability(np.array([score]))[0])
    return replace(found, parts=parts, score=score, probability=probability)


def explain_score(router: Router, prompt: str) -> ScoreExplained:
    """The predictor's own reasons."""
    found = router.explain(prompt)
    predictor = router.predictor
    if isinstance(predictor, Embedded | Llm):
        method, words = "occlusion", _sentences(predictor, prompt)
    else:
        method, words = "additive", _words(prompt, found.parts)
    calibration = router.calibration
    return ScoreExplained(
        found.probability, found.score, calibration.slope, calibration.intercept, method,
        found.parts, words,
    )  # fmt: skip


def explained(
    name: str,
    version: int,
    decider: Decider,
    asked: Asked,
    choice: Choice,
    guard: Mapping[str, Any],
    member: str,
    known: Known | None,
    n_nearest: int = 5,
) -> Explained:
    """`member` is who answers after the guard has had its say."""
    router, step = decider.router, decider.spec.predictor
    score = None if router is None or step is None else explain_score(router, asked.prompt)
    pair = decider.spec.pair
    return Explained(
        name, version, member, choice.why, choice.probability, choice.threshold, choice.cost,
        choice.cascade is not None, choice.steps, guard, score,
        choice.steps[-1].use == PredictorStep.use, pair[0] if pair else None,
        pair[1] if pair else None,
        () if known is None else nearest(known, asked.prompt, n_nearest),
    )  # fmt: skip


def _words(prompt: str, parts: Sequence[Part]) -> tuple[MarkedWord, ...]:
    """The amounts of words and pairs, laid on the places where they stand: in equal shares on all
    places of a term, a pair's halves on its two words. They add up to the sum of those parts."""
    amounts = {part.name: part.amount for part in parts if part.what == "word" and part.amount}
    if not amounts:
        return ()
    text = read(prompt).text
    tokens = [t for t in tokens_in(text) if len(t[2]) <= MAX_TERM_CHARS // 2]
    places: dict[str, list[tuple[int, ...]]] = {}
    for n, (_, _, word) in enumerate(tokens):
        places.setdefault(word, []).append((n,))
    for (n, first), (m, second) in pairwise(enumerate(tokens)):
        places.setdefault(f"{first[2]} {second[2]}", []).append((n, m))
    found = [0.0] * len(tokens)
    for term, amount in amounts.items():
        where = places.get(term, [])
        for some in where:
            for n in some:
                found[n] += amount / len(where) / len(some)
    # of a very long prompt two ends are read: places are those of the text that was read
    return tuple(
        MarkedWord(start, end, text[start:end], amount)
        for (start, end, _), amount in zip(tokens, found, strict=True)
        if amount
    )


def _sentences(predictor: Embedded | Llm, prompt: str) -> tuple[MarkedWord, ...]:
    found: list[MarkedWord] = []
    at = 0
    text = read(prompt).text
    for sentence, amount in occlusion(predictor, text):
        start = text.find(sentence, at)
        if start < 0:
            continue
        at = start + len(sentence)
        found.append(MarkedWord(start, at, sentence, amount))
    return tuple(found)


def heaviest(parts: Sequence[Part], n: int = 12) -> list[Part]:
    """The parts that weigh most; those of the kinds of which there are many are summed up but for
    these."""
    named = sorted((p for p in parts if p.what in _BY_NAME), key=lambda p: -abs(p.amount))
    rest = named[n:]
    whole = [p for p in parts if p.what not in _BY_NAME]
    summed = [
        Part(what, "all others", sum(p.amount for p in rest if p.what == what))
        for what in _BY_NAME
        if any(p.what == what for p in rest)
    ]
    shown = [p for p in [*whole, *named[:n], *summed] if abs(p.amount) > 1e-12]
    return sorted(shown, key=lambda p: (p.what != "average", -abs(p.amount)))
