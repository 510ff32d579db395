"""A language model as the predictor: asked whether a prompt needs the strong model, and read by how
much likelier Yes is than No as its next word. One forward pass, nothing is sampled.

    score = log P(Yes) - log P(No)

What it says is not learned here; what it is worth is: the score is calibrated like every other on
the training prompts, and a model that cannot tell gets one probability for all. `question` is what
it is asked, so a LoRA adapter tuned to answer it (localllm finetune) is the better predictor.
`Asker` is a protocol so that nothing here loads a model: localllm.route.asking has the one that
there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from localllm.route.contrast import FOLD_PROMPTS, Contrast, Floats
from localllm.route.measuring.crossval import Train
from localllm.route.predictors.base import Part, Predictor

YES, NO = "Yes", "No"
_QUESTION = (
    "Questions to an assistant are answered by a small model or by a large one. The small one is "
    "good at what is short, common and direct; several steps of reasoning, calculation and expert "
    "knowledge need the large one.\n\nQuestion:\n{prompt}\n\n"
    "Does this question need the large model? Answer Yes or No."
)


def question(prompt: str) -> str:
    """What is asked about `prompt`; the answers are YES and NO."""
    return _QUESTION.format(prompt=prompt)


@runtime_checkable
class Asker(Protocol):
    @property
    def name(self) -> str:
        """What answers, with a digest of it: a router refuses to be used with another."""
        ...

    def log_odds(self, prompts: Sequence[str]) -> Floats:
        """log P(Yes) - log P(No) as the answer to `question` of each, [n]. Long ones are cut."""
        ...


@dataclass(frozen=True)
class Llm:
    kind: ClassVar[str] = "llm"

    asker: Asker
    average: float  # score of the training prompts

    def scores(self, prompts: Sequence[str]) -> Floats:
        return self.asker.log_odds(prompts)

    def parts(self, prompt: str) -> list[Part]:
        found = float(self.asker.log_odds([prompt])[0])
        return [Part("average", "", self.average),
                Part("answer", self.asker.name, found - self.average)]  # fmt: skip

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "asker": np.array(self.asker.name, dtype=np.str_),
            "average": np.array(self.average),
        }


def trainer(asker: Asker) -> Train:
    """`train` for this asker. Each prompt is asked about once, however often it trains."""
    held = _Remembering(asker)

    def train(contrast: Contrast) -> Predictor:
        contrast.check_trainable(FOLD_PROMPTS)
        return Llm(held, float(held.log_odds(contrast.prompts).mean()))

    return train


class _Remembering:
    """An Asker that knows what it said: cross-validation asks about every prompt several times."""

    def __init__(self, asker: Asker) -> None:
        self.name, self._asker = asker.name, asker
        self._known: dict[str, float] = {}

    def log_odds(self, prompts: Sequence[str]) -> Floats:
        fresh = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self._known))
        if fresh:
            found = self._asker.log_odds(fresh)
            self._known.update(zip(fresh, (float(one) for one in found), strict=True))
        return np.array([self._known[prompt] for prompt in prompts])
