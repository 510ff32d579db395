"""Any number of models on the same prompts, as files give it; a contrast is two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from localllm.errors import UsageProblem
from localllm.route.contrast import Contrast, Floats


@dataclass(frozen=True)
class Panel:
    """n prompts x m models. A quality is 0 to 1, NaN where a model did not answer."""

    prompts: tuple[str, ...]
    models: tuple[str, ...]
    quality: Floats  # [n, m]
    domains: tuple[str, ...]
    benchmarks: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.quality.shape != (len(self.prompts), len(self.models)):
            raise UsageProblem("qualities are not one a prompt and model")
        if not len(self.prompts) == len(self.domains) == len(self.benchmarks):
            raise UsageProblem("prompts, domains and benchmarks differ in number")

    def contrast(self, weak: str, strong: str) -> Contrast:
        """The prompts that both answered. UsageProblem for an unknown model, or the same twice."""
        if weak == strong:
            raise UsageProblem(f"weak and strong are the same model, {weak}")
        columns = [self._column(name) for name in (weak, strong)]
        both = np.flatnonzero(np.isfinite(self.quality[:, columns]).all(axis=1))
        return Contrast(
            tuple(self.prompts[i] for i in both),
            self.quality[both, columns[0]],
            self.quality[both, columns[1]],
            tuple(self.domains[i] for i in both),
            tuple(self.benchmarks[i] for i in both),
        )

    def pair(self) -> tuple[str, str]:
        """(weak, strong) of a panel of two, by their mean quality on prompts both answered."""
        if len(self.models) != 2:
            raise UsageProblem(
                f"there are {len(self.models)} models, and weak and strong are not named",
                f"choose two of {', '.join(self.models[:8])}",
            )
        first, second = self.models
        return (first, second) if self.contrast(first, second).gap.sum() >= 0 else (second, first)

    def _column(self, name: str) -> int:
        if name not in self.models:
            raise UsageProblem(
                f"these data have no model {name!r}", f"they have {', '.join(self.models[:8])}"
            )
        return self.models.index(name)


def panel_of(contrast: Contrast, names: Sequence[str] = ("weak", "strong")) -> Panel:
    return Panel(
        contrast.prompts,
        tuple(names),
        np.stack([contrast.weak, contrast.strong], axis=1),
        contrast.domains,
        contrast.benchmarks,
    )
