"""How a run goes through its steps: tokens of each, how far they see, what is left out."""

from __future__ import annotations

from localllm.finetune.scratch.recipe import TrainRecipe

BATCH_LEAST, BATCH_MOST = 2048, 32768  # tokens a step
STEPS_WANTED = 1000  # of a run whose batch nobody names
RESERVE = 0.08  # of the budget: evaluations, checkpoints, llama.cpp's judgement
MOST_EPOCHS = 20.0  # of a budget: what is read so often teaches nothing any more
# Share of the steps, tokens that see each other: what stands near is learned first, and attention
# over 512 tokens of a small model takes as long as a third of its products.
REACHES: tuple[tuple[float, int | None], ...] = ((0.4, 128), (0.3, 256), (0.3, None))


def reach_at(share: float) -> int | None:
    """How many tokens see each other after that share of the steps; None is all of a row."""
    for part, reach in REACHES:
        if share < part:
            return reach
        share -= part
    return REACHES[-1][1]


def dropout_of(recipe: TrainRecipe, epochs: float) -> float:
    """As named, else none for a text that is read once or twice, more the more often."""
    if recipe.dropout is not None:
        return recipe.dropout
    return 0.0 if epochs < 3 else 0.1 if epochs < 8 else 0.2


def held_tokens(seen: float) -> float:
    """Held-out tokens at an evaluation: a hundredth of what a run sees, more of short runs, but
    never so many that eleven evaluations take more than a twelfth of the time."""
    return max(2048.0, min(16_384.0, seen / 50), seen / 100)


def batch_rows(recipe: TrainRecipe, tokens: float, n_rows: int) -> int:
    """Rows a step: as named, else so that a run has about a thousand steps; never more than a
    quarter of all rows, or there would be no steps to speak of."""
    if recipe.batch_tokens is not None:
        return min(n_rows, max(1, round(recipe.batch_tokens / recipe.context)))
    wanted = min(BATCH_MOST, max(BATCH_LEAST, tokens / STEPS_WANTED))
    return max(1, min(round(wanted / recipe.context), max(1, n_rows // 4)))


def planned_tokens(recipe: TrainRecipe, tokens_per_s: float, n_tokens: int) -> float:
    """Tokens that a run sees, `steps` aside: the epochs named, or what the budget has time for."""
    if recipe.epochs is not None:
        return recipe.epochs * n_tokens
    minutes = recipe.minutes or 0.0
    seen = 60 * minutes * (1 - RESERVE) * tokens_per_s
    return min(seen, MOST_EPOCHS * n_tokens)
