"""The text that models are judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import UsageProblem
from localllm.library.textfile import read_utf8


@dataclass(frozen=True)
class JudgedBy:
    """A text. `sha256` is of `content` in UTF-8."""

    name: str
    sha256: str
    content: str


def read_texts(paths: Sequence[Path]) -> JudgedBy:
    """The files one after the other, or the built-in evaluation text without any.

    One newline at the end of a file is left out, as llama-perplexity does.
    Raises FileGone, UsageProblem for what is no UTF-8 or holds nothing.
    """
    if not paths:
        from localllm.texts import evaluation

        builtin = evaluation()
        return _text(builtin.name, builtin.content.removesuffix("\n"))
    contents = [read_utf8(path).removesuffix("\n") for path in paths]
    return _text(" + ".join(path.name for path in paths), "\n".join(contents))


def _text(name: str, content: str) -> JudgedBy:
    if not content.strip():
        raise UsageProblem(f"{name} holds no text")
    return JudgedBy(name, hashlib.sha256(content.encode()).hexdigest(), content)
