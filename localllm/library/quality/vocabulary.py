"""Whether two models mean the same by a token's number, from their headers alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from localllm.errors import DamagedFile, UsageProblem
from localllm.library import header_of
from localllm.registry import Model

_TOKENS = "tokenizer.ggml.tokens"


@dataclass(frozen=True)
class Vocabulary:
    model: str
    tokens: tuple[str, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256("\0".join(self.tokens).encode("utf-8", "replace")).hexdigest()


def vocabulary_of(model: Model) -> Vocabulary:
    """Raises DamagedFile where the file has none, and what reading its header raises."""
    metadata = header_of(model).metadata
    tokens = metadata.get(_TOKENS, ())
    if not isinstance(tokens, tuple) or not tokens:
        raise DamagedFile(f"{model.name} has no vocabulary")
    return Vocabulary(model.name, tuple(str(token) for token in tokens))


def check_same(base: Vocabulary, other: Vocabulary) -> None:
    """Raise UsageProblem, saying what differs, unless both have the same tokens."""
    if base.tokens == other.tokens:
        return
    if len(base.tokens) != len(other.tokens):
        what = f"{len(other.tokens)} and {len(base.tokens)} tokens"
    else:
        pairs = enumerate(zip(other.tokens, base.tokens, strict=True))
        number, (own, its) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
        what = f"token {number} is {own!r} and {its!r}"
    raise UsageProblem(
        f"{other.model} and its base {base.model} have different vocabularies: {what}",
        f"without --base, for perplexity alone: localllm quality {other.model}",
    )
