"""Precision and recall by kind, with Wilson's intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from localllm.privacy import Finding, Kind, find
from tests.privacy.corpus import Gold, Sample


@dataclass(frozen=True)
class Share:
    """`hits` of `total`, and the interval that holds the true share in 95 of 100 such sets."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        return self.hits / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson, E. B. (1927), Probable inference, the law of succession; z = 1.96."""
        n, z = self.total, 1.959964
        if not n:
            return 0.0, 1.0
        p = self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Score:
    """`recall`: the whole value found, as this kind. `covered`: the whole value found, as any
    kind, which is what keeps it from leaving. `precision`: findings of this kind that are."""

    kind: Kind
    recall: Share
    covered: Share
    precision: Share


def score(samples: Iterable[Sample]) -> tuple[dict[Kind, Score], list[tuple[Sample, str]]]:
    """By kind over the whole set, and the texts that went wrong with what did."""
    found: Counter[tuple[Kind, str]] = Counter()
    wrong: list[tuple[Sample, str]] = []
    for sample in samples:
        findings = find(sample.text)
        for gold in sample.gold:
            found[gold.kind, "gold"] += 1
            covers = [f for f in findings if f.start <= gold.start and gold.end <= f.end]
            found[gold.kind, "covered"] += bool(covers)
            right = any(f.kind is gold.kind for f in covers)
            found[gold.kind, "right"] += right
            if not right:
                wrong.append((sample, f"missed {gold.kind}: {[f.kind.value for f in covers]}"))
        for finding in findings:
            found[finding.kind, "findings"] += 1
            true = any(_meets(finding, gold) for gold in sample.gold)
            found[finding.kind, "true"] += true
            if not true:
                wrong.append((sample, f"false {finding.kind}: {finding.why}"))
    return {kind: _score(kind, found) for kind in Kind}, wrong


def _meets(finding: Finding, gold: Gold) -> bool:
    return finding.kind is gold.kind and finding.start < gold.end and gold.start < finding.end


def _score(kind: Kind, found: Counter[tuple[Kind, str]]) -> Score:
    gold = found[kind, "gold"]
    return Score(
        kind,
        Share(found[kind, "right"], gold),
        Share(found[kind, "covered"], gold),
        Share(found[kind, "true"], found[kind, "findings"]),
    )
