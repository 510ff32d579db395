"""What is known of a question before anybody answers it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from localllm.errors import UsageProblem
from localllm.generation import Message

MAX_CHARS = 32 << 20  # of one conversation: more is no question


@dataclass(frozen=True)
class Asked:
    """`prompt` is the last thing that the user said, which is what is routed by; `chars` are of
    the whole conversation. `at` in seconds since the epoch."""

    prompt: str
    chars: int
    images: int = 0
    tools: bool = False
    at: float = field(default_factory=time.time)

    @classmethod
    def of_text(cls, prompt: str) -> Asked:
        return cls.of([Message("user", prompt)])

    @classmethod
    def of(cls, messages: Sequence[Message], *, tools: bool = False) -> Asked:
        """Raises UsageProblem where there is nothing to answer."""
        prompt = next((m.content for m in reversed(messages) if m.role == "user"), "")
        chars = sum(len(m.content) for m in messages)
        images = sum(len(m.extra.get("images", ())) for m in messages)
        if not prompt.strip() and not images:
            raise UsageProblem("an empty prompt is not routed")
        if chars > MAX_CHARS:
            raise UsageProblem(f"a conversation of {chars} characters is too long to be routed")
        return cls(prompt, chars, images, tools)

    @property
    def tokens(self) -> float:
        """About how many, for costs: four characters each."""
        return self.chars / 4
