"""Words and pairs of words, weighted by how rare they are (TF-IDF)."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from localllm.route.text.sparse import Floats, Ints, Sparse

# A word of any script, or one character of a script that puts no spaces between words
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]|[^\W_]+")
MAX_TERMS = 200_000
MAX_TERM_CHARS = 60  # longer ones (a key, base64) say nothing and would fill a file


@dataclass(frozen=True)
class Vocabulary:
    """The terms of the training prompts and their weights. `number` is `terms` turned round."""

    terms: tuple[str, ...]
    rarity: Floats  # [n_terms]
    number: Mapping[str, int]

    @classmethod
    def of(cls, terms: Sequence[str], rarity: Floats) -> Vocabulary:
        return cls(tuple(terms), rarity, {term: i for i, term in enumerate(terms)})

    @classmethod
    def learn(cls, texts: Sequence[str], min_texts: int = 2) -> tuple[Vocabulary, Sparse]:
        """Every term of at least `min_texts` texts, the most frequent if over MAX_TERMS, and the
        rows of these texts."""
        counted = [Counter(terms_of(text)) for text in texts]
        found: Counter[str] = Counter()
        for one in counted:
            found.update(one.keys())
        kept = [(count, term) for term, count in found.items() if count >= min_texts]
        kept.sort(key=lambda item: (-item[0], item[1]))
        terms = sorted(term for _, term in kept[:MAX_TERMS])
        counts = np.array([found[term] for term in terms], dtype=np.float64)
        # the smoothed form of scikit-learn: as if one text more had held every term
        vocabulary = cls.of(terms, np.log((1 + len(texts)) / (1 + counts)) + 1)
        rows = [vocabulary._weighted(one) for one in counted]
        return vocabulary, Sparse.stack(rows, len(terms))

    def row(self, text: str) -> tuple[Ints, Floats]:
        """(term numbers, weights): (1 + log count) x rarity, scaled to length 1."""
        return self._weighted(Counter(terms_of(text)))

    def _weighted(self, counts: Mapping[str, int]) -> tuple[Ints, Floats]:
        known = [(self.number[t], n) for t, n in counts.items() if t in self.number]
        known.sort()
        columns = np.array([c for c, _ in known], dtype=np.int64)
        weights = np.array([1 + math.log(n) for _, n in known]) * self.rarity[columns]
        length = math.sqrt(float(weights @ weights))
        return columns, weights / length if length else weights


def tokens_in(text: str) -> list[tuple[int, int, str]]:
    """(start, end, word in lower case) of every word. Of the few characters that are longer in
    lower case the places are one off."""
    return [(found.start(), found.end(), found[0]) for found in _TOKEN.finditer(text.lower())]


def terms_of(text: str) -> list[str]:
    """Words in lower case, and neighbours joined by a space."""
    words = [word for word in _TOKEN.findall(text.lower()) if len(word) <= MAX_TERM_CHARS // 2]
    return words + [f"{a} {b}" for a, b in itertools.pairwise(words)]
