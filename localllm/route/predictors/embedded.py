"""A predictor on sentence embeddings from a local model; which model is the caller's choice.

    score = average + slope x load + trust(form) x (weights . embedding)

`Embedder` is a protocol so that nothing here loads a model: localllm.route.embedders has those
that exist. A vector says nothing a person can read, so an explanation gives it as one part, and
`occlusion` measures what each sentence does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from localllm.errors import UsageProblem
from localllm.route.contrast import FOLD_PROMPTS, Contrast, Floats
from localllm.route.measuring.crossval import Train
from localllm.route.predictors.base import Part, Predictor
from localllm.route.text.cues import CUES, Reading, read
from localllm.route.text.load import LoadScale

# Against unit vectors, of which those of a field lie close together
_PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
TRUST_PRIOR = 100.0
_LEAST_SLOPE = 0.01


@runtime_checkable
class Embedder(Protocol):
    @property
    def name(self) -> str:
        """What made the vectors; a router refuses to be used with another."""
        ...

    @property
    def n_dims(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector a text, [n, n_dims], of length 1. Long texts may be cut."""
        ...


@dataclass(frozen=True)
class Embedded:
    kind: ClassVar[str] = "embedded"

    embedder: Embedder
    average: float
    scale: LoadScale
    slope: float
    forms: tuple[str, ...]
    trust: Floats  # [n_forms]
    centre: Floats  # [n_dims]
    weight: Floats  # [n_dims]

    def scores(self, prompts: Sequence[str]) -> Floats:
        """One batch to the embedder, so that it can compute several texts together."""
        readings = [read(prompt) for prompt in prompts]
        vectors = self.embedder.embed([reading.text for reading in readings])
        inner = (vectors.astype(np.float64) - self.centre) @ self.weight
        return np.array(
            [
                self.average + float(self._load(reading).sum()) + self._trust(reading.form) * s
                for reading, s in zip(readings, inner, strict=True)
            ]
        )

    def parts(self, prompt: str) -> list[Part]:
        reading = read(prompt)
        vector = self.embedder.embed([reading.text])[0].astype(np.float64)
        inner = float((vector - self.centre) @ self.weight)
        return [
            Part("average", "", self.average),
            *(
                Part("load", name, float(amount))
                for name, amount in zip(CUES, self._load(reading), strict=True)
            ),
            Part("embedding", self.embedder.name, self._trust(reading.form) * inner),
        ]

    def _load(self, reading: Reading) -> Floats:
        return np.asarray(self.slope * self.scale.shares(reading))

    def _trust(self, form: str) -> float:
        return float(self.trust[self.forms.index(form)]) if form in self.forms else 0.0

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "embedder": np.array(self.embedder.name, dtype=np.str_),
            "average": np.array(self.average),
            "cue_mean": self.scale.mean,
            "cue_deviation": self.scale.deviation,
            "slope": np.array(self.slope),
            "forms": np.array(self.forms, dtype=np.str_),
            "trust": self.trust,
            "centre": self.centre,
            "weight": self.weight,
        }


def trainer(embedder: Embedder) -> Train:
    """`train` for this embedder. Each prompt is embedded once, however often it trains."""
    known: dict[str, NDArray[np.float32]] = {}

    def train(contrast: Contrast) -> Predictor:
        fresh = list(dict.fromkeys(p for p in contrast.prompts if p not in known))
        if fresh:
            vectors = embedder.embed([read(prompt).text for prompt in fresh])
            if vectors.shape != (len(fresh), embedder.n_dims):
                raise UsageProblem(f"{embedder.name} gave vectors of another size than it said")
            known.update(zip(fresh, vectors, strict=True))
        return _fit(contrast, embedder, np.array([known[p] for p in contrast.prompts]))

    return train


def _fit(contrast: Contrast, embedder: Embedder, vectors: NDArray[np.float32]) -> Embedded:
    contrast.check_trainable(FOLD_PROMPTS)
    readings = [read(prompt) for prompt in contrast.prompts]
    scale = LoadScale.learn(readings)
    load = scale.loads(readings)
    average = float(contrast.gap.mean())
    target = contrast.gap - average
    slope = max(float(load @ target / (load @ load + 1.0)), _LEAST_SLOPE)
    centred = vectors.astype(np.float64)
    centre = centred.mean(axis=0)
    centred -= centre
    weight = _ridge(centred, target - slope * load)
    forms = tuple(sorted({reading.form for reading in readings}))
    n = np.array([sum(reading.form == form for reading in readings) for form in forms])
    trust = n / (n + TRUST_PRIOR)
    return Embedded(embedder, average, scale, slope, forms, trust, centre, weight)


def _ridge(rows: Floats, target: Floats) -> Floats:
    """Ridge regression with the penalty of least leave-one-out error, which has a closed form."""
    values, vectors = np.linalg.eigh(rows.T @ rows)
    turned = rows @ vectors
    inner = turned.T @ target

    def error(penalty: float) -> float:
        shrunk = turned / (np.maximum(values, 0.0) + penalty)
        leverage = np.sum(turned * shrunk, axis=1)
        return float(np.sum(((target - shrunk @ inner) / (1 - leverage)) ** 2))

    best = min(_PENALTIES, key=error)
    return np.asarray(vectors @ (inner / (np.maximum(values, 0.0) + best)), dtype=np.float64)


def occlusion(predictor: Predictor, prompt: str) -> list[tuple[str, float]]:
    """(sentence, how much lower the score is without it), in the order of the text."""
    sentences = [s for s in re.split(r"(?<=[.?!。？！\n])", prompt) if s.strip()]
    if len(sentences) < 2:
        return [(prompt, 0.0)]
    without = ["".join(sentences[:i] + sentences[i + 1 :]) for i in range(len(sentences))]
    whole, *rest = predictor.scores([prompt, *without])
    return [(s, float(whole - r)) for s, r in zip(sentences, rest, strict=True)]
