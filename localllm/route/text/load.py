"""The reading load of a prompt: its cues, each in standard deviations of the training prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from localllm.route.contrast import Floats
from localllm.route.text.cues import CUES, Reading, cues

_CLIP = 3.0  # standard deviations: one absurd count in a prompt decides nothing


@dataclass(frozen=True)
class LoadScale:
    """What is usual among the training prompts."""

    mean: Floats  # [n_cues]
    deviation: Floats  # [n_cues]; 0 for a cue that never varied, which then says nothing

    @classmethod
    def learn(cls, readings: Sequence[Reading]) -> LoadScale:
        raw = np.array([cues(reading) for reading in readings])
        deviation = raw.std(axis=0)
        deviation[deviation < 1e-9] = 0.0
        return cls(raw.mean(axis=0), deviation)

    def shares(self, reading: Reading) -> Floats:
        """What every cue adds to the load, [n_cues]: the load is their sum, a mean of z scores."""
        varied = self.deviation > 0
        z = (np.array(cues(reading)) - self.mean) / np.where(varied, self.deviation, 1.0)
        return np.asarray(np.clip(np.where(varied, z, 0.0), -_CLIP, _CLIP) / len(CUES))

    def loads(self, readings: Sequence[Reading]) -> Floats:
        return np.array([float(self.shares(reading).sum()) for reading in readings])
