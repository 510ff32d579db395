"""What a router learns from: prompts, and how two models did on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from localllm.errors import UsageProblem

Floats = NDArray[np.float64]

MIN_PROMPTS = 40  # under this, no figure about a predictor means anything
# Without a fold of those; folds are not all of one size where the prompts have many domains
FOLD_PROMPTS = MIN_PROMPTS // 2


@dataclass(frozen=True)
class Contrast:
    """n prompts with the quality of a weak and a strong model's answers, from 0 to 1.

    `domains` name the field of each prompt where it is known ("" where not), `benchmarks` what
    figures are given for apart. A preference between two answers is 1 for the better and 0 for
    the other, a tie 0.5 for both.
    """

    prompts: tuple[str, ...]
    weak: Floats  # [n]
    strong: Floats  # [n]
    domains: tuple[str, ...]
    benchmarks: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.prompts)
        if not n == len(self.weak) == len(self.strong) == len(self.domains) == len(self.benchmarks):
            raise UsageProblem("prompts, qualities, domains and benchmarks differ in number")
        for quality in (self.weak, self.strong):
            if n and not (np.isfinite(quality).all() and 0 <= quality.min() <= quality.max() <= 1):
                raise UsageProblem("a quality is not a number from 0 to 1")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def gap(self) -> Floats:
        """What the strong model's answer is worth more: -1 to 1, [n]."""
        return self.strong - self.weak

    def take(self, which: NDArray[np.int64] | NDArray[np.bool_]) -> Contrast:
        """The prompts at these indices, or where the mask is true."""
        chosen = np.flatnonzero(which) if which.dtype == np.bool_ else which
        return Contrast(
            tuple(self.prompts[i] for i in chosen),
            self.weak[chosen],
            self.strong[chosen],
            tuple(self.domains[i] for i in chosen),
            tuple(self.benchmarks[i] for i in chosen),
        )

    def of_benchmark(self, name: str) -> Contrast:
        is_one = [benchmark == name for benchmark in self.benchmarks]
        return self.take(np.array(is_one, dtype=np.bool_))  # of none too

    def check_trainable(self, least: int = MIN_PROMPTS) -> None:
        """Raises UsageProblem where no predictor can learn, saying why. `least` prompts; predictors
        ask for FOLD_PROMPTS, since cross-validation trains them on parts of what was checked."""
        if len(self) < least:
            raise UsageProblem(
                f"{len(self)} prompts are too few to train a router on: at least {least}"
            )
        gap = self.gap
        if (gap == gap[0]).all():
            which = "never better" if gap[0] <= 0 else "always better by as much"
            raise UsageProblem(
                f"nothing to learn: the strong model is {which} on all {len(self)} prompts",
                "always use the weak model" if gap[0] <= 0 else "always use the strong model",
            )


def merged(contrast: Contrast) -> tuple[Contrast, int]:
    """Prompts that occur several times become one, with their mean qualities.

    Labels that contradict each other so count as what they are: a model that is right half of
    the time. Gives also how many prompts had labels that differ. A prompt that stands in
    training and held-out data would make a figure too good; this is also what prevents that.
    """
    places: dict[str, list[int]] = {}
    for i, prompt in enumerate(contrast.prompts):
        places.setdefault(prompt, []).append(i)
    first = contrast.take(np.array([where[0] for where in places.values()], dtype=np.int64))
    weak = np.array([contrast.weak[where].mean() for where in places.values()])
    strong = np.array([contrast.strong[where].mean() for where in places.values()])
    differ = sum(
        1
        for where in places.values()
        if np.ptp(contrast.weak[where]) > 0 or np.ptp(contrast.strong[where]) > 0
    )
    return Contrast(first.prompts, weak, strong, first.domains, first.benchmarks), differ


def joined(parts: Sequence[Contrast]) -> Contrast:
    return Contrast(
        tuple(prompt for part in parts for prompt in part.prompts),
        np.concatenate([part.weak for part in parts]) if parts else np.zeros(0),
        np.concatenate([part.strong for part in parts]) if parts else np.zeros(0),
        tuple(domain for part in parts for domain in part.domains),
        tuple(benchmark for part in parts for benchmark in part.benchmarks),
    )
