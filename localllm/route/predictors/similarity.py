"""Predictors that ask the known prompts: those most alike say how the models did.

`neighbours` is the mean gap of the nearest prompts by TF-IDF cosine, pulled towards the overall
mean by NEIGHBOUR_PRIOR. `bradley-terry` is RouteLLM's similarity-weighted ranking (section 4.2
of the paper): every known prompt counts gamma ** (1 + cosine / largest cosine), gamma = 10, and
the win rate maximizes the weighted Bradley-Terry likelihood; for two models that is the weighted
share of wins, ties half. Given here as 2 x win rate - 1, which is on the scale of a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from localllm.route.contrast import FOLD_PROMPTS, Contrast, Floats
from localllm.route.predictors.base import Part
from localllm.route.text.cues import read
from localllm.route.text.sparse import Ints
from localllm.route.text.words import Vocabulary

NEIGHBOURS = 200
NEIGHBOUR_PRIOR = 1.0  # in units of one prompt with cosine 1
GAMMA = 10.0
_EXCERPT_CHARS = 120
_NAMED = 20  # neighbours that an explanation names; the rest are one part


@dataclass(frozen=True)
class Postings:
    """For every term, which prompts hold it and how heavily: prompts alike in one pass."""

    start: Ints  # [n_terms + 1]: term t has start[t] to start[t + 1]
    prompt: Ints
    value: Floats
    n_prompts: int

    def cosines(self, columns: Ints, values: Floats) -> Floats:
        """The cosine to every known prompt, [n_prompts]."""
        found = np.zeros(self.n_prompts)
        for column, value in zip(columns, values, strict=True):
            first, last = self.start[column], self.start[column + 1]
            # a prompt holds a term once, so no index repeats within a slice
            found[self.prompt[first:last]] += value * self.value[first:last]
        return found


@dataclass(frozen=True)
class Similarity:
    kind: ClassVar[str] = "similarity"

    rule: str  # "neighbours" or "bradley-terry"
    vocabulary: Vocabulary
    postings: Postings
    gap: Floats  # [n]; for bradley-terry its sign
    excerpts: tuple[str, ...]  # the beginning of every known prompt

    def scores(self, prompts: Sequence[str]) -> Floats:
        found = np.zeros(len(prompts))
        for i, prompt in enumerate(prompts):
            share, average = self._shares(prompt)
            found[i] = average + float(share @ (self.gap - average))
        return found

    def parts(self, prompt: str) -> list[Part]:
        share, average = self._shares(prompt)
        amounts = share * (self.gap - average)
        nearest = np.argsort(-share, kind="stable")[:_NAMED]
        named = [Part("neighbour", self.excerpts[i], float(amounts[i])) for i in nearest]
        rest = float(amounts.sum() - amounts[nearest].sum())
        return [Part("average", "", average), *named, Part("neighbour", "all others", rest)]

    def nearest(self, prompt: str, n: int = 5) -> list[tuple[str, float, float]]:
        """(beginning, cosine, gap) of the known prompts most alike, first the most."""
        cosine = self.cosines(prompt)
        order = np.argsort(-cosine, kind="stable")[:n]
        return [(self.excerpts[i], float(cosine[i]), float(self.gap[i])) for i in order]

    def cosines(self, prompt: str) -> Floats:
        return self.postings.cosines(*self.vocabulary.row(read(prompt).text))

    def _shares(self, prompt: str) -> tuple[Floats, float]:
        """How much every known prompt counts, and the average that they move the score from."""
        average = float(self.gap.mean())
        cosine = self.cosines(prompt)
        if self.rule == "bradley-terry":
            weight = GAMMA ** (1 + cosine / max(float(cosine.max()), 1e-9))
            return weight / weight.sum(), average
        n = min(NEIGHBOURS, len(cosine))
        near = np.argpartition(-cosine, n - 1)[:n]
        weight = np.zeros(len(cosine))
        weight[near] = np.maximum(cosine[near], 0.0)
        return weight / (weight.sum() + NEIGHBOUR_PRIOR), average

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "rule": np.array(self.rule, dtype=np.str_),
            "terms": np.array(self.vocabulary.terms, dtype=np.str_),
            "rarity": self.vocabulary.rarity,
            "start": self.postings.start,
            "prompt": self.postings.prompt,
            "value": self.postings.value.astype(np.float32),
            "gap": self.gap,
            "excerpts": np.array(self.excerpts, dtype=np.str_),
        }


def train_neighbours(contrast: Contrast) -> Similarity:
    return _train(contrast, "neighbours", contrast.gap)


def train_bradley_terry(contrast: Contrast) -> Similarity:
    return _train(contrast, "bradley-terry", np.sign(contrast.gap))


def _train(contrast: Contrast, rule: str, gap: Floats) -> Similarity:
    contrast.check_trainable(FOLD_PROMPTS)
    texts = [read(prompt).text for prompt in contrast.prompts]
    vocabulary, rows = Vocabulary.learn(texts)
    order = np.argsort(rows.column, kind="stable")
    counts = np.bincount(rows.column, minlength=len(vocabulary.terms))
    postings = Postings(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        rows.row[order],
        rows.value[order],
        len(texts),
    )
    excerpts = tuple(text[:_EXCERPT_CHARS] for text in texts)
    return Similarity(rule, vocabulary, postings, gap, excerpts)
