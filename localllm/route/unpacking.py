"""Predictors from the arrays of a file, every one checked against the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from localllm.errors import DamagedFile, UsageProblem
from localllm.route.contrast import Floats
from localllm.route.predictors.base import Predictor
from localllm.route.predictors.embedded import Embedded, Embedder
from localllm.route.predictors.factors import Factors
from localllm.route.predictors.lexical import Lexical
from localllm.route.predictors.llm import Asker, Llm
from localllm.route.predictors.similarity import Postings, Similarity
from localllm.route.text.cues import CUES
from localllm.route.text.load import LoadScale
from localllm.route.text.sparse import Ints
from localllm.route.text.words import Vocabulary

Helper = Embedder | Asker  # the local model that a predictor needs beside its numbers

# A weight this large is no weight: scores are about -1 to 1
_LARGEST = 1e6


class CheckedArrays:
    """The arrays of a file; whatever is asked for is checked, or DamagedFile."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays

    def floats(self, name: str, *shape: int | None) -> Floats:
        """Finite numbers of this shape; None is any size from 0."""
        array = self._get(name)
        if array.dtype.kind not in "fi" or not _fits(array.shape, shape):
            raise DamagedFile(f"{name} is not of shape {_written(shape)}")
        values = array.astype(np.float64)
        if not (np.abs(values) <= _LARGEST).all():  # false for NaN too
            raise DamagedFile(f"{name} holds what is no weight: NaN, infinite or absurdly large")
        return values

    def has(self, name: str) -> bool:
        return name in self._arrays

    def number(self, name: str) -> float:
        return float(self.floats(name))

    def counts(self, name: str, n: int | None, below: int) -> Ints:
        array = self._get(name)
        if array.dtype.kind != "i" or not _fits(array.shape, (n,)):
            raise DamagedFile(f"{name} is not a list of whole numbers")
        values = array.astype(np.int64)
        if len(values) and not (values.min() >= 0 and values.max() < below):
            raise DamagedFile(f"{name} points outside of the file's other parts")
        return values

    def texts(self, name: str) -> tuple[str, ...]:
        array = self._get(name)
        if array.dtype.kind != "U" or array.ndim != 1:
            raise DamagedFile(f"{name} is not a list of texts")
        return tuple(str(text) for text in array)

    def names(self, name: str) -> tuple[str, ...]:
        """Texts of which none occurs twice."""
        texts = self.texts(name)
        if len(set(texts)) != len(texts):
            raise DamagedFile(f"{name} has the same entry twice")
        return texts

    def text(self, name: str) -> str:
        array = self._get(name)
        if array.dtype.kind != "U" or array.shape:
            raise DamagedFile(f"{name} is not a text")
        return str(array)

    def vocabulary(self) -> Vocabulary:
        terms = self.names("terms")
        return Vocabulary.of(terms, self.floats("rarity", len(terms)))

    def scale(self) -> LoadScale:
        deviation = self.floats("cue_deviation", len(CUES))
        if (deviation < 0).any():
            raise DamagedFile("cue_deviation has a negative deviation")
        return LoadScale(self.floats("cue_mean", len(CUES)), deviation)

    def _get(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise DamagedFile(f"{name} is missing")
        return self._arrays[name]


def _fits(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(
        want is None or size == want for size, want in zip(found, wanted, strict=True)
    )


def _written(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"


def predictor_from(
    kind: str, arrays: Mapping[str, np.ndarray], helper: Helper | None = None
) -> Predictor:
    """Raises DamagedFile for arrays that do not fit together, UsageProblem for a helper that is
    missing or another than the one trained with."""
    held = CheckedArrays(arrays)
    if kind == Embedded.kind:
        return _embedded(held, helper)
    if kind == Llm.kind:
        return _llm(held, helper)
    readers: dict[str, Callable[[CheckedArrays], Predictor]] = {
        Lexical.kind: _lexical,
        Similarity.kind: _similarity,
        Factors.kind: _factors,
    }
    if kind not in readers:
        raise DamagedFile(f"no predictor is of kind {kind[:40]!r}")
    return readers[kind](held)


def _lexical(held: CheckedArrays) -> Lexical:
    vocabulary = held.vocabulary()
    n_terms = len(vocabulary.terms)
    forms, domains = held.names("forms"), held.names("domains")
    trust = held.floats("trust", len(forms))
    if len(trust) and not 0 <= trust.min() <= trust.max() <= 1:
        raise DamagedFile("trust is a share from 0 to 1")
    no_slopes = np.zeros(len(domains))
    return Lexical(
        vocabulary,
        held.number("average"),
        held.scale(),
        forms,
        held.floats("slope", len(forms)),
        trust,
        held.number("unseen_slope"),
        domains,
        held.floats("centroid", len(domains), n_terms),
        held.floats("log_share", len(domains)),
        held.floats("offset", len(domains)),
        # a router that was trained before domains had slopes has none
        held.floats("domain_slope", len(domains)) if held.has("domain_slope") else no_slopes,
        held.floats("word_weight", n_terms),
    )


def _similarity(held: CheckedArrays) -> Similarity:
    vocabulary = held.vocabulary()
    rule = held.text("rule")
    if rule not in ("neighbours", "bradley-terry"):
        raise DamagedFile(f"no similarity has the rule {rule[:40]!r}")
    gap, excerpts = held.floats("gap", None), held.texts("excerpts")
    if not len(gap) == len(excerpts) > 0:
        raise DamagedFile("gap and excerpts differ in number")
    value = held.floats("value", None)
    start = held.counts("start", len(vocabulary.terms) + 1, len(value) + 1)
    if start[0] != 0 or start[-1] != len(value) or (np.diff(start) < 0).any():
        raise DamagedFile("start does not cut the postings into terms")
    prompt = held.counts("prompt", len(value), len(gap))
    return Similarity(rule, vocabulary, Postings(start, prompt, value, len(gap)), gap, excerpts)


def _factors(held: CheckedArrays) -> Factors:
    vocabulary = held.vocabulary()
    models, pair = held.names("models"), held.names("pair")
    if len(pair) != 2 or not set(pair) <= set(models):
        raise DamagedFile("pair does not name two of the models")
    model_vector = held.floats("model_vector", len(models), None)
    rank = model_vector.shape[1]
    return Factors(
        vocabulary,
        models,
        held.floats("mean", len(models)),
        model_vector,
        held.scale(),
        held.floats("cue_vector", rank),
        held.floats("term_vector", len(vocabulary.terms), rank),
        *pair,
    )


def _named(helper: Helper | None) -> str:
    return "nothing" if helper is None else helper.name


def _llm(held: CheckedArrays, helper: Helper | None) -> Llm:
    name = held.text("asker")
    if helper is None or helper.name != name or not isinstance(helper, Asker):
        raise UsageProblem(f"this router asks {name[:200]}, not {_named(helper)}")
    return Llm(helper, held.number("average"))


def _embedded(held: CheckedArrays, helper: Helper | None) -> Embedded:
    name = held.text("embedder")
    if helper is None or helper.name != name or not isinstance(helper, Embedder):
        raise UsageProblem(f"this router reads embeddings of {name[:200]}, not of {_named(helper)}")
    embedder = helper
    forms = held.names("forms")
    return Embedded(
        embedder,
        held.number("average"),
        held.scale(),
        held.number("slope"),
        forms,
        held.floats("trust", len(forms)),
        held.floats("centre", embedder.n_dims),
        held.floats("weight", embedder.n_dims),
    )
