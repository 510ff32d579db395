"""The linear predictor: reading load, domain, words. A decision is a few dictionary look-ups.

    score = average + (slope(form) + trust(form) x domain slope) x load
            + trust(form) x (domain offset + sum of word weights)

- load: how much there is to read and to relate (text.cues), which asks more of a model whatever
  the subject. Its slope is learned from all prompts, and apart for every form of prompt
  (multiple choice or free, by script) as far as there are prompts of it.
- domain offset: how much the strong model is better in a field, over the fields that the words
  of the prompt resemble. Fields come with the training prompts (an MMLU subject); their offsets
  are shrunk by DOMAIN_PRIOR prompts towards the average.
- domain slope: how much more, or less, load asks for the strong model in that field than
  elsewhere, shrunk towards nothing. A long question in macroeconomics is one that only the strong
  model gets right; in abstract algebra it is one that both get wrong (MMLU, measured).
- word weights: ridge regression of what these two leave, on TF-IDF of words and word pairs.
- trust: n / (n + TRUST_PRIOR) for a form with n training prompts. What was learned of fields
  and words does not carry over to a kind of prompt that was not seen (trained on MMLU alone it
  orders GSM8K no better than chance, measured); load does.

The target is the gap itself. Two models of each model's success, subtracted, order the prompts
no better and carry twice the noise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from localllm.route.contrast import FOLD_PROMPTS, Contrast, Floats
from localllm.route.predictors.base import Part
from localllm.route.text.cues import CUES, read
from localllm.route.text.load import LoadScale
from localllm.route.text.sparse import Ints, Sparse, ridge
from localllm.route.text.words import Vocabulary

WORD_PENALTY = 40.0
DOMAIN_PRIOR = 20.0
FORM_PRIOR = 20.0
TRUST_PRIOR = 100.0
SHARPNESS = 40.0  # of the soft choice of a domain, per unit of cosine
MIN_DOMAIN_PROMPTS = 8
MAX_DOMAINS = 64
# More to read and relate never makes the strong model less needed: the least slope for forms
# that were not seen, per standard deviation
_LEAST_SLOPE = 0.01


@dataclass(frozen=True)
class Lexical:
    """Learned numbers only; n_terms words, n_domains fields, n_forms forms of prompt."""

    kind: ClassVar[str] = "lexical"

    vocabulary: Vocabulary
    average: float
    scale: LoadScale
    forms: tuple[str, ...]
    slope: Floats  # [n_forms], of load
    trust: Floats  # [n_forms]
    unseen_slope: float  # of load, for every other form
    domains: tuple[str, ...]
    centroid: Floats  # [n_domains, n_terms], unit rows
    log_share: Floats  # [n_domains], log of each domain's share of the training prompts
    offset: Floats  # [n_domains]
    domain_slope: Floats  # [n_domains], of load, beside the form's
    word_weight: Floats  # [n_terms]

    def scores(self, prompts: Sequence[str]) -> Floats:
        return np.array([sum(part.amount for part in self._parts(prompt)) for prompt in prompts])

    def parts(self, prompt: str) -> list[Part]:
        return self._parts(prompt)

    def _parts(self, prompt: str) -> list[Part]:
        reading = read(prompt)
        slope, trust = self._of_form(reading.form)
        shares = self.scale.shares(reading)
        parts = [Part("average", "", self.average)]
        if trust == 0.0:
            return parts + _load_parts(slope, shares)
        columns, values = self.vocabulary.row(reading.text)
        if not self.domains:
            parts += _load_parts(slope, shares)
        else:
            likeness = _soft(self.centroid[:, columns] @ values, self.log_share)
            parts += _load_parts(slope + trust * float(likeness @ self.domain_slope), shares)
            parts += [
                Part("domain", name, float(trust * p * offset))
                for name, p, offset in zip(self.domains, likeness, self.offset, strict=True)
            ]
        amounts = trust * values * self.word_weight[columns]
        parts += [
            Part("word", self.vocabulary.terms[c], float(amount))
            for c, amount in zip(columns, amounts, strict=True)
        ]
        return parts

    def _of_form(self, form: str) -> tuple[float, float]:
        if form not in self.forms:
            return self.unseen_slope, 0.0
        i = self.forms.index(form)
        return float(self.slope[i]), float(self.trust[i])

    def likely_domain(self, prompt: str) -> tuple[str, float] | None:
        """The field that the prompt resembles most, and how surely (0 to 1)."""
        if not self.domains:
            return None
        columns, values = self.vocabulary.row(read(prompt).text)
        likeness = _soft(self.centroid[:, columns] @ values, self.log_share)
        best = int(np.argmax(likeness))
        return self.domains[best], float(likeness[best])

    def arrays(self) -> dict[str, np.ndarray]:
        # float32 halves the file; a score moves by less than 1e-6
        small = np.float32
        return {
            "terms": np.array(self.vocabulary.terms, dtype=np.str_),
            "rarity": self.vocabulary.rarity.astype(small),
            "average": np.array(self.average),
            "cue_mean": self.scale.mean,
            "cue_deviation": self.scale.deviation,
            "forms": np.array(self.forms, dtype=np.str_),
            "slope": self.slope,
            "trust": self.trust,
            "unseen_slope": np.array(self.unseen_slope),
            "domains": np.array(self.domains, dtype=np.str_),
            "centroid": self.centroid.astype(small),
            "log_share": self.log_share,
            "offset": self.offset,
            "domain_slope": self.domain_slope,
            "word_weight": self.word_weight.astype(small),
        }


def train_lexical(contrast: Contrast) -> Lexical:
    """Seconds for ten thousand prompts. Raises UsageProblem for data that teach nothing."""
    contrast.check_trainable(FOLD_PROMPTS)
    readings = [read(prompt) for prompt in contrast.prompts]
    vocabulary, rows = Vocabulary.learn([reading.text for reading in readings])
    scale = LoadScale.learn(readings)
    load = scale.loads(readings)
    forms, form = _numbered([reading.form for reading in readings], 1, MAX_DOMAINS)
    domains, domain = _numbered(contrast.domains, MIN_DOMAIN_PROMPTS, MAX_DOMAINS)
    gap, average = contrast.gap, float(contrast.gap.mean())
    slope, offset, domain_slope = _load_and_offsets(
        load, (form, len(forms)), (domain, len(domains)), gap - average
    )
    explained = np.where(form >= 0, slope[form], 0.0) * load
    if domains:
        of_domain = offset[domain] + domain_slope[domain] * load
        explained = explained + np.where(domain >= 0, of_domain, 0.0)
    n_of_form = np.bincount(form[form >= 0], minlength=len(forms))
    n_of_domain = np.bincount(domain[domain >= 0], minlength=len(domains))
    alone = float(load @ (gap - average) / (load @ load + FORM_PRIOR))
    return Lexical(
        vocabulary,
        average,
        scale,
        forms,
        slope,
        n_of_form / (n_of_form + TRUST_PRIOR),
        max(alone, _LEAST_SLOPE),
        domains,
        _centroids(rows, domain, len(domains)),
        np.log(n_of_domain / max(n_of_domain.sum(), 1)),
        offset,
        domain_slope,
        ridge(rows, gap - average - explained, WORD_PENALTY),
    )


def _load_parts(slope: float, shares: Floats) -> list[Part]:
    return [
        Part("load", name, float(slope * share)) for name, share in zip(CUES, shares, strict=True)
    ]


def _numbered(names: Sequence[str], at_least: int, at_most: int) -> tuple[tuple[str, ...], Ints]:
    """The names that occur `at_least` times, and each one's number; -1 for "" and the rest."""
    counts = Counter(name for name in names if name)
    kept = sorted(name for name, n in counts.most_common(at_most) if n >= at_least)
    number = {name: i for i, name in enumerate(kept)}
    return tuple(kept), np.array([number.get(name, -1) for name in names], dtype=np.int64)


def _load_and_offsets(
    load: Floats, form: tuple[Ints, int], domain: tuple[Ints, int], target: Floats
) -> tuple[Floats, Floats, Floats]:
    """(slope of load for every form, offset of every domain, its own slope beside the form's), by
    one penalized regression.

    A slope is a common one plus deviations of its form and its domain, so a form or a domain with
    few prompts takes the common slope. What the domains add has a mean of 0.
    """
    (form_of, n_forms), (domain_of, n_domains) = form, domain
    by_form = (form_of[:, None] == np.arange(n_forms)) * load[:, None]
    by_domain = (domain_of[:, None] == np.arange(n_domains)).astype(np.float64)
    by_both = by_domain * load[:, None]
    columns = np.hstack([load[:, None], by_form, by_domain, by_both])
    centred = columns - columns.mean(axis=0)
    penalty = np.concatenate(
        [[1.0], np.full(n_forms, FORM_PRIOR), np.full(2 * n_domains, DOMAIN_PRIOR)]
    )
    weights = np.linalg.solve(centred.T @ centred + np.diag(penalty), centred.T @ target)
    offsets, slopes = np.split(weights[1 + n_forms :], 2)
    mean = by_domain.mean(axis=0) @ offsets + by_both.mean(axis=0) @ slopes
    return weights[0] + weights[1 : 1 + n_forms], offsets - float(mean), slopes


def _centroids(rows: Sparse, domain: Ints, n_domains: int) -> Floats:
    """The direction of every domain's prompts: [n_domains, n_terms], unit rows."""
    inside = (domain >= 0)[rows.row]
    kept = Sparse(rows.row[inside], rows.column[inside], rows.value[inside], rows.shape)
    sums = kept.group_sums(domain, n_domains)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / np.where(lengths > 0, lengths, 1.0))


def _soft(cosine: Floats, log_share: Floats) -> Floats:
    exponent = SHARPNESS * cosine + log_share
    powers = np.exp(exponent - exponent.max())
    return np.asarray(powers / powers.sum())
