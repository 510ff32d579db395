"""The texts that a search is made with and judged by, and their contexts.

The search reads the calibration text, as the importance matrix does, or the user's files; the
result is judged by the evaluation text, which nothing was made or chosen by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import UsageProblem

if TYPE_CHECKING:
    from localllm.engine.quality.chunks import Chunk
    from localllm.engine.tokenizer import Tokenizer


@dataclass(frozen=True)
class SomeText:
    """`sha256` is of `content` in UTF-8."""

    name: str
    content: str
    sha256: str


@dataclass(frozen=True)
class Texts:
    """What to search with, and what to judge by."""

    search: SomeText
    judge: SomeText


@dataclass(frozen=True)
class Contexts:
    """How a text is read: `n` contexts of `n_ctx` tokens, spread evenly over it, the last
    `n_scored` of each scored."""

    n: int
    n_ctx: int
    n_scored: int

    @property
    def n_tokens(self) -> int:
        return self.n * self.n_scored


# Errors cluster by context, so many short ones tell more than few long ones of the same cost.
SEARCH = Contexts(32, 64, 16)
WHOLE = Contexts(128, 64, 16)  # for the few whole choices
JUDGE = Contexts(32, 192, 32)


def texts_for(paths: Sequence[Path]) -> Texts:
    """The user's own text, else the built-in ones. Raises FileGone, UsageProblem."""
    from localllm.library.imatrix import read_texts
    from localllm.texts import calibration, evaluation

    own = evaluation()
    judge = SomeText(own.name, own.content, own.sha256)
    if not paths:
        known = calibration()
        return Texts(SomeText(known.name, known.content, known.sha256), judge)
    given = read_texts(paths)
    if judge.sha256 in given.sha256.split():
        raise UsageProblem(
            "the built-in evaluation text is what the result is judged by: it cannot be "
            "searched with as well"
        )
    return Texts(SomeText(" + ".join(given.names), given.content, given.sha256), judge)


def contexts_of(text: SomeText, tokenizer: Tokenizer, wanted: Contexts) -> tuple[Chunk, ...]:
    """At most `wanted.n` contexts. Raises UsageProblem where the text gives fewer than two."""
    return _spread(_all_contexts(text, tokenizer, wanted.n_ctx, wanted.n_scored), wanted.n)


def _all_contexts(
    text: SomeText, tokenizer: Tokenizer, n_ctx: int, n_scored: int
) -> tuple[Chunk, ...]:
    from localllm.engine.quality.chunks import chunks_of

    bos = tokenizer.bos if tokenizer.adds_bos else None
    return chunks_of(tokenizer.encode(text.content), n_ctx, bos, n_scored=n_scored)


def _spread(found: Sequence[Chunk], n: int) -> tuple[Chunk, ...]:
    """At most `n` of them, evenly over the text."""
    if len(found) <= n:
        return tuple(found)
    return tuple(found[i * len(found) // n] for i in range(n))
