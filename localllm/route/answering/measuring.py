"""A cascade's weak member alone: its whole answer, and every signal of how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localllm.endpoints import Wanted
from localllm.generation import Message, Sampling
from localllm.route.answering.members import Members
from localllm.route.pool.steps import CascadeStep
from localllm.toolcalls import TextPart

_SEED = 0  # the same prompt gives the same signals again


@dataclass(frozen=True)
class MeasuredAnswer:
    """`signals` are those of the step, each from 0 to 1; `tokens` of all its samples."""

    text: str
    signals: dict[str, float]
    tokens: int


def measure_weak(
    doors: Members, step: CascadeStep, messages: Sequence[Message], max_tokens: int
) -> MeasuredAnswer:
    """It answers as it does when nobody says otherwise (its own temperature), since signals at
    another are other signals. It runs here: the privacy guard has no say. Raises what asking it
    raises."""
    wanted = Wanted(
        messages=tuple(messages), sampling=Sampling(seed=_SEED, max_tokens=max_tokens),
        given=frozenset(("seed", "max_tokens")),
    )  # fmt: skip
    door = doors.door(step.weak)
    try:
        stream = door.cascade(wanted, step, None)
        said = []
        while (part := stream.next_part()) is not None:
            if isinstance(part, TextPart) and not part.thinking:
                said.append(part.text)
    finally:
        door.release()
    return MeasuredAnswer("".join(said), stream.judged.signals, stream.judged.tokens)
