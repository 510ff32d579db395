"""How large the model is: layers and rows that can be quantized, and as many as the time teaches.

Rows are multiples of 256 where nothing else is named: llama.cpp's K types (Q4_K, Q6_K ...) store
blocks of 256 numbers of a row, the older ones (Q8_0, Q4_0) blocks of 32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from localllm.errors import UsageProblem
from localllm.finetune.scratch.recipe import TrainRecipe

TOKENS_PER_PARAM = 20.0  # of a model that its compute is best spent on (Hoffmann et al. 2022)
HEAD = 64
# width, layers: with a vocabulary of 4096 from 5.3 to 28 million parameters
LADDER = ((256, 5), (256, 6), (256, 8), (256, 12), (512, 4), (512, 6), (512, 8))
SMALL = (256, 2)  # for texts of less than SMALL_BYTES
SMALL_BYTES = 2_000_000


@dataclass(frozen=True)
class Shape:
    """A Llama: tied embeddings, RMSNorm, SwiGLU, rotary positions."""

    n_vocab: int
    context: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    ff: int

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    @property
    def n_params(self) -> int:
        attention = self.width * (2 * self.width + 2 * self.kv_heads * self.head_size)
        layer = attention + 3 * self.width * self.ff + 2 * self.width
        return self.n_vocab * self.width + self.layers * layer + self.width

    @property
    def flops_per_token(self) -> int:
        """Forward and back: 6 a parameter in a matrix (the tied embedding is one, as the output),
        and scores and values over half of the context on average."""
        return 6 * self.n_params + 6 * self.layers * self.width * self.context

    @property
    def has_k_rows(self) -> bool:
        """Whether every matrix can be stored in K types."""
        return self.width % 256 == 0 and self.ff % 256 == 0

    def memory_bytes(self, pack_tokens: int) -> int:
        """What training holds at its highest: weights, gradients and two moments in float32; what
        a pack leaves for its backward pass; twice the loss's buffer; the program."""
        layer = 10 * self.width + 5 * self.width + 6 * self.width + 5 * self.ff
        kept = 4 * pack_tokens * (self.layers * layer + 4 * self.width)
        loss = 2 * min(128 << 20, 4 * pack_tokens * self.n_vocab)
        return 16 * self.n_params + kept + loss + (450 << 20)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def shape_of(recipe: TrainRecipe, n_vocab: int, width: int, layers: int) -> Shape:
    """`width` and `layers` where the recipe names none; the rest follows. Raises UsageProblem for
    heads that do not divide."""
    wide = recipe.width or width
    heads = recipe.heads or next(n for n in range(max(1, wide // HEAD), 0, -1) if wide % n == 0)
    kv_heads = recipe.kv_heads or heads
    if wide % heads or (wide // heads) % 2:
        raise UsageProblem(
            f"{heads} heads do not divide a width of {wide} into even parts",
            f"--heads {max(1, wide // HEAD)}",
        )
    if heads % kv_heads:
        raise UsageProblem(f"{kv_heads} heads of keys do not divide {heads} heads", "--kv-heads")
    step = 256 if wide % 256 == 0 else 32
    ff = recipe.ff or max(step, round(8 / 3 * wide / step) * step)
    return Shape(
        n_vocab, recipe.context, wide, recipe.layers or layers, heads, kv_heads, ff
    )  # fmt: skip


def smallest(recipe: TrainRecipe, n_vocab: int, n_bytes: int) -> Shape:
    """The one that the speed of the machine is tried with."""
    width, layers = SMALL if n_bytes < SMALL_BYTES else LADDER[0]
    return shape_of(recipe, n_vocab, width, layers)


def choose(recipe: TrainRecipe, tried: Shape, flops_per_s: float, n_unique: float) -> Shape:
    """The largest of the ladder that sees `TOKENS_PER_PARAM` tokens a parameter in the budget,
    `tried` where none does. What is named stays. `flops_per_s` was measured, `n_unique` tokens
    are in the text."""
    minutes = recipe.minutes
    if minutes is None or (recipe.width and recipe.layers):
        return tried
    best = tried
    for width, layers in LADDER:
        one = shape_of(recipe, tried.n_vocab, width, layers)
        seen = 60 * minutes * flops_per_s / one.flops_per_token
        if one.n_params > best.n_params and worth(seen, n_unique) >= (
            TOKENS_PER_PARAM * one.n_params
        ):
            best = one
    return best


def worth(seen: float, unique: float) -> float:
    """Tokens of new text that `seen` tokens of `unique` ones, read again and again, teach as much
    as: U + U R (1 - exp(-(epochs - 1) / R)), R = 15.4 (Muennighoff et al. 2023, section 6)."""
    from math import exp

    if seen <= unique or unique <= 0:
        return seen
    return unique * (1 + _R * (1 - exp(-(seen / unique - 1) / _R)))


_R = 15.4
