"""The texts that a search is made with, and their contexts.

The search reads the calibration text, as the importance matrix does, and chooses among the last
few on a part of the evaluation text; or both on parts of the user's files that share nothing. The
result is judged by the rest of the evaluation text, which nothing was made or chosen by.
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

_CHOSEN_BY = 4  # one part in so many of the evaluation text is for choosing: the last


@dataclass(frozen=True)
class SomeText:
    """`sha256` is of `content` in UTF-8."""

    name: str
    content: str
    sha256: str


@dataclass(frozen=True)
class Texts:
    """What to search with, to choose by, and to judge by. The first two are one text where it
    is the user's own."""

    search: SomeText
    choose: SomeText
    judge: SomeText

    @property
    def searched_with(self) -> str:
        names = (self.search.name, self.choose.name)
        return " and ".join(dict.fromkeys(names))


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
# Whole choices are measured on as many sets of such contexts in turn: what one set's tokens say
# of a group by chance, others do not, and a set more costs nothing but the original's answers.
SETS = 4
CHOOSE = Contexts(48, 192, 32)  # among the best few
JUDGE = Contexts(32, 192, 32)


def texts_for(paths: Sequence[Path]) -> Texts:
    """The user's own text, else the built-in ones. Raises FileGone, UsageProblem."""
    from localllm.library.imatrix import read_texts
    from localllm.texts import calibration, evaluation

    whole = evaluation()
    if paths:
        given = read_texts(paths)
        if whole.sha256 in given.sha256.split():
            raise UsageProblem(
                "the built-in evaluation text is what the result is judged by: it cannot be "
                "searched with as well"
            )
        own = SomeText(" + ".join(given.names), given.content, given.sha256)
        return Texts(own, own, SomeText(whole.name, whole.content, whole.sha256))
    known = calibration()
    cut = whole.content.rfind("\n\n", 0, len(whole.content) * (_CHOSEN_BY - 1) // _CHOSEN_BY)
    return Texts(
        SomeText(known.name, known.content, known.sha256),
        _part(f"{whole.name}, last {_CHOSEN_BY}th", whole.content[cut:]),
        _part(f"{whole.name} without its last {_CHOSEN_BY}th", whole.content[:cut]),
    )


def _part(name: str, content: str) -> SomeText:
    import hashlib

    return SomeText(name, content, hashlib.sha256(content.encode()).hexdigest())


def contexts_of(text: SomeText, tokenizer: Tokenizer, wanted: Contexts) -> tuple[Chunk, ...]:
    """At most `wanted.n` contexts. Raises UsageProblem where the text gives fewer than two."""
    return _spread(_all_contexts(text, tokenizer, wanted.n_ctx, wanted.n_scored), wanted.n)


def contexts_for(
    texts: Texts, tokenizer: Tokenizer, search: Contexts, choose: Contexts
) -> tuple[tuple[tuple[Chunk, ...], ...], tuple[Chunk, ...]]:
    """`SETS` sets of contexts to search with, fewer where the text gives no more, and those to
    choose by; none shares a token with another. Raises UsageProblem for too short a text."""
    from dataclasses import replace

    wanted = replace(search, n=search.n * SETS)
    if texts.search is texts.choose:
        found, others = apart(texts.search, tokenizer, wanted, choose)
    else:
        found = contexts_of(texts.search, tokenizer, wanted)
        others = contexts_of(texts.choose, tokenizer, choose)
    n_sets = max(1, len(found) // search.n)
    return tuple(found[first::n_sets] for first in range(n_sets)), others


def apart(
    text: SomeText, tokenizer: Tokenizer, one: Contexts, other: Contexts
) -> tuple[tuple[Chunk, ...], tuple[Chunk, ...]]:
    """Contexts of both shapes from the same text that share no token: stretches of it serve
    them in turn. Raises UsageProblem where the text gives fewer than two of either."""
    n_ctx = max(one.n_ctx, other.n_ctx)
    stretches = _all_contexts(text, tokenizer, n_ctx, n_ctx - 1)
    mine, others = (
        tuple(_last(chunk, wanted) for chunk in _spread(stretches[first::2], wanted.n))
        for first, wanted in enumerate((one, other))
    )
    if min(len(mine), len(others)) < 2:
        raise UsageProblem(
            f"{text.name} is too short: a search takes at least {4 * n_ctx} tokens, "
            f"it has {len(stretches)} times {n_ctx}",
            "give more --text",
        )
    return mine, others


def _all_contexts(
    text: SomeText, tokenizer: Tokenizer, n_ctx: int, n_scored: int
) -> tuple[Chunk, ...]:
    from localllm.engine.quality_chunks import chunks_of

    bos = tokenizer.bos if tokenizer.adds_bos else None
    return chunks_of(tokenizer.encode(text.content), n_ctx, bos, n_scored=n_scored)


def _spread(found: Sequence[Chunk], n: int) -> tuple[Chunk, ...]:
    """At most `n` of them, evenly over the text."""
    if len(found) <= n:
        return tuple(found)
    return tuple(found[i * len(found) // n] for i in range(n))


def _last(chunk: Chunk, wanted: Contexts) -> Chunk:
    """The chunk's first tokens, as many as a context of `wanted` has, its last ones scored."""
    from dataclasses import replace

    first = wanted.n_ctx - 1 - wanted.n_scored
    targets = chunk.tokens[first + 1 : wanted.n_ctx]
    return replace(chunk, tokens=chunk.tokens[: wanted.n_ctx], first=first, targets=targets)
