"""The texts that a search is made with: three that share nothing.

The importance matrix comes from the calibration text (or the user's own), the search from one
part of the evaluation text (or the user's files), and the result is judged by the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import UsageProblem

if TYPE_CHECKING:
    from localllm.engine.quality_chunks import Chunk
    from localllm.engine.tokenizer import Tokenizer

_SEARCHED = 4  # one part in so many of the evaluation text is for searching: the last


@dataclass(frozen=True)
class SomeText:
    """`sha256` is of `content` in UTF-8."""

    name: str
    content: str
    sha256: str


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
SEARCH = Contexts(16, 64, 16)
JUDGE = Contexts(32, 192, 32)


def texts_for(paths: Sequence[Path]) -> tuple[SomeText, SomeText]:
    """What to search with and what to judge by. Raises FileGone, UsageProblem."""
    from localllm.library.imatrix import read_texts
    from localllm.texts import evaluation

    whole = evaluation()
    if paths:
        given = read_texts(paths)
        if whole.sha256 in given.sha256.split():
            raise UsageProblem(
                "the built-in evaluation text is what the result is judged by: it cannot be "
                "searched with as well"
            )
        own = SomeText(" + ".join(given.names), given.content, given.sha256)
        return own, SomeText(whole.name, whole.content, whole.sha256)
    cut = whole.content.rfind("\n\n", 0, len(whole.content) * (_SEARCHED - 1) // _SEARCHED)
    return (
        _part(f"{whole.name}, last {_SEARCHED}th", whole.content[cut:]),
        _part(f"{whole.name} without its last {_SEARCHED}th", whole.content[:cut]),
    )


def _part(name: str, content: str) -> SomeText:
    import hashlib

    return SomeText(name, content, hashlib.sha256(content.encode()).hexdigest())


def contexts_of(text: SomeText, tokenizer: Tokenizer, wanted: Contexts) -> tuple[Chunk, ...]:
    """At most `wanted.n` contexts. Raises UsageProblem where the text gives fewer than two."""
    from localllm.engine.quality_chunks import chunks_of

    bos = tokenizer.bos if tokenizer.adds_bos else None
    tokens = tokenizer.encode(text.content)
    found = chunks_of(tokens, wanted.n_ctx, bos, n_scored=wanted.n_scored)
    if len(found) <= wanted.n:
        return found
    return tuple(found[i * len(found) // wanted.n] for i in range(wanted.n))
