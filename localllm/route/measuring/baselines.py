"""The honest baselines: what a router must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from localllm.route.contrast import Floats


def length(prompts: Sequence[str]) -> Floats:
    """Longer prompts to the strong model: characters."""
    return np.array([float(len(prompt)) for prompt in prompts])


def chance(prompts: Sequence[str]) -> Floats:
    """No prompt before another: its curve is the straight line, its APGR 0.5 exactly.

    This is `random` at expectation; drawing one order would only add noise to a comparison.
    """
    return np.zeros(len(prompts))


def baselines(prompts: Sequence[str]) -> dict[str, Floats]:
    return {"random": chance(prompts), "length": length(prompts)}
