"""Matrix factorization over any number of models: what each is good at, as a few numbers.

    quality(model, prompt) = mean of model + vector of model . vector of prompt

RouteLLM's second predictor, for more than two models and without an embedding service: the
vectors come from alternating ridge regressions over the answers that are there (a model need
not have answered every prompt), and a prompt's vector from its words and its load. What a pair
of models adds up to is a linear score, so it is explained exactly, word for word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from localllm.errors import UsageProblem
from localllm.route.contrast import FOLD_PROMPTS, Contrast, Floats
from localllm.route.panel import Panel, panel_of
from localllm.route.predictors.base import Part
from localllm.route.text.cues import CUES, read
from localllm.route.text.load import LoadScale
from localllm.route.text.sparse import ridge_chosen
from localllm.route.text.words import Vocabulary

RANK = 8
_FACTOR_PENALTY = 1.0
_WORD_PENALTIES = (3.0, 10.0, 30.0, 100.0)
_ROUNDS = 20


@dataclass(frozen=True)
class Factors:
    """`weak` and `strong` are the two models whose gap `scores` gives."""

    kind: ClassVar[str] = "factors"

    vocabulary: Vocabulary
    models: tuple[str, ...]
    mean: Floats  # [n_models]
    model_vector: Floats  # [n_models, rank]
    scale: LoadScale
    cue_vector: Floats  # [rank]: of one standard deviation of load
    term_vector: Floats  # [n_terms, rank]
    weak: str
    strong: str

    def qualities(self, prompts: Sequence[str]) -> Floats:
        """Expected quality of every model: [n_prompts, n_models], as a linear model gives it
        (a little under 0 or over 1 at the ends)."""
        vectors = np.array([self._vector(prompt) for prompt in prompts])
        return np.asarray(self.mean + vectors @ self.model_vector.T)

    def scores(self, prompts: Sequence[str]) -> Floats:
        quality = self.qualities(prompts)
        weak, strong = self.models.index(self.weak), self.models.index(self.strong)
        return np.asarray(quality[:, strong] - quality[:, weak])

    def parts(self, prompt: str) -> list[Part]:
        reading = read(prompt)
        weak, strong = self.models.index(self.weak), self.models.index(self.strong)
        direction = self.model_vector[strong] - self.model_vector[weak]
        columns, values = self.vocabulary.row(reading.text)
        amounts = values * (self.term_vector[columns] @ direction)
        slope = float(self.cue_vector @ direction)
        shares = self.scale.shares(reading)
        return [
            Part("average", "", float(self.mean[strong] - self.mean[weak])),
            *(Part("load", n, float(slope * v)) for n, v in zip(CUES, shares, strict=True)),
            *(
                Part("word", self.vocabulary.terms[c], float(a))
                for c, a in zip(columns, amounts, strict=True)
            ),
        ]

    def _vector(self, prompt: str) -> Floats:
        reading = read(prompt)
        columns, values = self.vocabulary.row(reading.text)
        load = float(self.scale.shares(reading).sum())
        return np.asarray(load * self.cue_vector + values @ self.term_vector[columns])

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "terms": np.array(self.vocabulary.terms, dtype=np.str_),
            "rarity": self.vocabulary.rarity,
            "models": np.array(self.models, dtype=np.str_),
            "mean": self.mean,
            "model_vector": self.model_vector,
            "cue_mean": self.scale.mean,
            "cue_deviation": self.scale.deviation,
            "cue_vector": self.cue_vector,
            "term_vector": self.term_vector.astype(np.float32),
            "pair": np.array([self.weak, self.strong], dtype=np.str_),
        }


def train_factors(panel: Panel, weak: str, strong: str, rank: int = RANK) -> Factors:
    """Raises UsageProblem for fewer than FOLD_PROMPTS prompts, or a model with no answers."""
    seen = np.asarray(np.isfinite(panel.quality))
    if len(panel.prompts) < FOLD_PROMPTS:
        raise UsageProblem(
            f"{len(panel.prompts)} prompts are too few to train a router on: "
            f"at least {FOLD_PROMPTS}"
        )
    for i, name in enumerate(panel.models):
        if not seen[:, i].any():
            raise UsageProblem(f"{name} has no answer in these data")
    for name in (weak, strong):
        if name not in panel.models:
            raise UsageProblem(f"these data have no model {name!r}")
    readings = [read(prompt) for prompt in panel.prompts]
    vocabulary, rows = Vocabulary.learn([reading.text for reading in readings])
    scale = LoadScale.learn(readings)
    load = scale.loads(readings)
    mean = np.where(seen, panel.quality, 0.0).sum(axis=0) / seen.sum(axis=0)
    residual = np.where(seen, panel.quality - mean, 0.0)
    prompt_vector, model_vector = _factorize(residual, seen, min(rank, len(panel.models)))
    cue_vector = load @ prompt_vector / (load @ load + _FACTOR_PENALTY)
    left = prompt_vector - load[:, None] * cue_vector
    direction = model_vector[panel.models.index(strong)] - model_vector[panel.models.index(weak)]
    term_vector = ridge_chosen(rows, left, direction, _WORD_PENALTIES)
    return Factors(
        vocabulary, panel.models, mean, model_vector, scale,
        np.asarray(cue_vector), term_vector, weak, strong,
    )  # fmt: skip


def train_factors_of_contrast(contrast: Contrast) -> Factors:
    contrast.check_trainable(FOLD_PROMPTS)
    return train_factors(panel_of(contrast), "weak", "strong")


def _factorize(residual: Floats, seen: np.ndarray, rank: int) -> tuple[Floats, Floats]:
    """(prompt vectors [n, rank], model vectors [m, rank]) with their product near `residual`
    where `seen`, by alternating ridge regressions from a fixed start."""
    n, m = residual.shape
    models = np.random.default_rng(0).normal(size=(m, rank)) / np.sqrt(rank)
    prompts = np.zeros((n, rank))
    known = seen.astype(np.float64)
    eye = _FACTOR_PENALTY * np.eye(rank)
    for _ in range(_ROUNDS):
        grams = np.einsum("nm,mj,mk->njk", known, models, models) + eye
        prompts = np.linalg.solve(grams, (residual @ models)[:, :, None])[:, :, 0]
        grams = np.einsum("nm,nj,nk->mjk", known, prompts, prompts) + eye
        models = np.linalg.solve(grams, (residual.T @ prompts)[:, :, None])[:, :, 0]
    return prompts, models
