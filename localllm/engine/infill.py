"""A prompt for a gap in a text: what is before it and after it, by the vocabulary's own marks."""

from __future__ import annotations

from collections.abc import Sequence

from localllm.engine.tokenizer import Tokenizer
from localllm.errors import UsageProblem


class CannotInfill(UsageProblem):
    """The model's vocabulary has no tokens for a gap."""


def infill_prompt(tokenizer: Tokenizer, before: str | Sequence[int], after: str) -> list[int]:
    """Tokens that a model continues with what belongs between `before` and `after`.

    In the order of llama.cpp's server: prefix, suffix, middle (PSM; Bavarian et al. 2022,
    arXiv:2207.14255). Marks written in the texts are texts. Raises CannotInfill for a model whose
    vocabulary has no such marks.
    """
    marks = tokenizer.infill
    if marks is None:
        raise CannotInfill(
            "this model fills no gaps (suffix): its vocabulary has no tokens for them",
            "a code model that was trained to, as Qwen2.5-Coder",
        )
    prefix, suffix, middle = marks
    first = tokenizer.encode(before, add_special=False) if isinstance(before, str) else before
    bos = [tokenizer.bos] if tokenizer.adds_bos and tokenizer.bos is not None else []
    if bos and list(first[:1]) == bos:
        first = first[1:]
    rest = tokenizer.encode(after, add_special=False)
    return [*bos, prefix, *first, suffix, *rest, middle]
