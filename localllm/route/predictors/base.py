"""What every predictor offers, and what an explanation is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from localllm.route.contrast import Floats

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Part:
    """One reason, and how far it moves the score up (towards the strong model) or down."""

    what: str  # "average", "load", "domain", "word", "neighbours"
    name: str  # which cue, domain or term
    amount: float


class Predictor(Protocol):
    """Scores are expected gaps: what the strong model's answer is worth more, about -1 to 1."""

    kind: ClassVar[str]

    def scores(self, prompts: Sequence[str]) -> Floats: ...

    def parts(self, prompt: str) -> list[Part]:
        """Reasons that add up to the score of `prompt`, to rounding."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was learned, as numbers and text, for a router file."""
        ...
