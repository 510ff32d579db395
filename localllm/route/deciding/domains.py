"""Which field a prompt is of, by example prompts of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from localllm.route.contrast import Floats
from localllm.route.pool.steps import Domain, DomainsStep
from localllm.route.predictors.embedded import Embedder
from localllm.route.text.cues import read
from localllm.route.text.words import Vocabulary


@dataclass(frozen=True)
class Likeness:
    """The cosine to each domain's centre, most alike first. `chosen` None: all below the
    threshold."""

    chosen: Domain | None
    cosines: tuple[tuple[str, float], ...]


class DomainMap:
    """The centres of a step's domains. Made once, when the router is opened: some milliseconds
    for hundreds of examples."""

    def __init__(self, step: DomainsStep, embedder: Embedder | None = None) -> None:
        self._step, self._embedder = step, embedder
        texts = [[read(text).text for text in one.examples] for one in step.domains]
        everything = [text for some in texts for text in some]
        self._vocabulary: Vocabulary | None = None
        if embedder is None:
            self._vocabulary, _ = Vocabulary.learn(everything, min_texts=1)
        self._centre = np.stack([self._direction(some) for some in texts])

    def likeness(self, prompt: str) -> Likeness:
        vector = self._vectors([read(prompt).text])[0]
        length = float(np.linalg.norm(vector))
        cosine = self._centre @ vector / length if length else np.zeros(len(self._centre))
        order = np.argsort(-cosine, kind="stable")
        domains = self._step.domains
        best = int(order[0])
        chosen = domains[best] if cosine[best] >= self._step.abstain and length else None
        return Likeness(chosen, tuple((domains[i].name, float(cosine[i])) for i in order))

    def _direction(self, texts: Sequence[str]) -> Floats:
        total = self._vectors(texts).sum(axis=0)
        length = float(np.linalg.norm(total))
        return np.asarray(total / length if length else total)

    def _vectors(self, texts: Sequence[str]) -> Floats:
        if self._embedder is not None:
            return self._embedder.embed(texts).astype(np.float64)
        assert self._vocabulary is not None
        rows = np.zeros((len(texts), len(self._vocabulary.terms)))
        for i, text in enumerate(texts):
            columns, values = self._vocabulary.row(text)
            rows[i, columns] = values
        return rows
