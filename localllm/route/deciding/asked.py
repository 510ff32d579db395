"""What is known of a question before anybody answers it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from localllm.errors import UsageProblem
from localllm.generation import Message

MAX_CHARS = 32 << 20  # of one conversation: more is no question
# What chat makes of a file: its name and a colon, then its text in a fence that it cannot close.
# A name has a dot in it: "like this:" before a fence is no file
_FILE = re.compile(r"^[^\s:/\\][^:/\\\n]{0,200}\.[\w-]{1,16}:\n(`{3,})[^`\n]*\n", re.M)


@dataclass(frozen=True)
class Asked:
    """`prompt` is the last thing that the user said, which is what is routed by; `chars`, `images`
    and `files` are of the whole conversation. `at` in seconds since the epoch."""

    prompt: str
    chars: int
    images: int = 0
    tools: bool = False
    at: float = field(default_factory=time.time)
    files: int = 0

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
        files = sum(_n_files(m.content) for m in messages if m.role == "user")
        return cls(prompt, chars, images, tools, files=files)

    @property
    def tokens(self) -> float:
        """About how many, for costs: four characters each."""
        return self.chars / 4


def _n_files(text: str) -> int:
    """Files in a message; what looks like one within the fence of another is its text."""
    n, at = 0, 0
    while (found := _FILE.search(text, at)) is not None:
        n += 1
        end = text.find(f"\n{found[1]}", found.end() - 1)
        if end < 0:
            break
        at = end + len(found[1]) + 1
    return n
