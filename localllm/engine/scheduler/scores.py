"""How likely the model holds a token, and a prompt's own tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from localllm.engine.scheduler.request import Event, Logprob, Request, TokenLogprobs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from localllm.engine.batching import TokenBatch
    from localllm.engine.context import Context
    from localllm.engine.scheduler.share import Part
    from localllm.engine.scheduler.slot import Slot


def token_logprobs(row: NDArray[np.float32], token: int, n_top: int) -> TokenLogprobs:
    """log softmax of `row` at `token` and at the `n_top` likeliest, ties by id."""
    import numpy as np

    shifted = row.astype(np.float64) - float(row.max())
    total = float(np.log(np.exp(shifted).sum()))
    n_top = min(n_top, len(row))
    if n_top == 1:
        found = np.array([row.argmax()])
    elif n_top:
        found = np.argpartition(-row, n_top - 1)[:n_top]
        found = found[np.lexsort((found, -row[found]))]
    else:
        found = np.empty(0, dtype=np.int64)
    top = tuple(Logprob(int(i), float(shifted[i]) - total) for i in found)
    return TokenLogprobs(Logprob(token, float(shifted[token]) - total), top)


def to_score(request: Request) -> int:
    """Tokens of the prompt whose logprobs are wanted: all but the first."""
    return len(request.prompt) - 1 if request.score_prompt else 0


def shared_outputs(parts: Sequence[Part], most: int) -> list[Part]:
    """`parts` with no more rows of logits among them than `most`: those that score their prompt
    take what the others leave, and one at least in turn. The first keep what they have."""
    kept: list[Part] = []
    for part in parts:
        slot, n = part.slot, part.n
        done = max(0, scored(slot) - slot.fed)  # computed again after it was put aside
        if slot.to_score and n > done:
            n = min(n, done + most)
            most -= n - done
        elif n == slot.remaining:
            n -= most == 0
            most -= most > 0
        if n:
            part.n = n
            kept.append(part)
    return kept


def scored(slot: Slot) -> int:
    """Places of the prompt whose logits were used. Those of the last one are not among them: they
    are what comes next."""
    return to_score(slot.job.request) - slot.to_score


def fill_scored(batch: TokenBatch, part: Part) -> int:
    """Put it in `batch` with all of its logits; those that were used before it was put aside are
    not asked for. The last one's place."""
    slot = part.slot
    assert slot.sequence is not None
    index, done = 0, scored(slot)
    for at in range(slot.fed, slot.fed + part.n):
        index = batch.add(slot.tokens[at], at, slot.sequence, output=at >= done)
    part.first = index + 1 - part.n
    return index


def tell_scores(context: Context, part: Part, first: int) -> None:
    """Send the logprobs of the prompt's tokens that follow those of `part`, which begins at place
    `first` of the batch. Before `fed` counts them. Raises EngineError for NaN."""
    slot = part.slot
    request = slot.job.request
    assert request.logprobs is not None  # check_request
    found = []
    for at in range(scored(slot), min(slot.fed + part.n, len(request.prompt) - 1)):
        place = first + at - slot.fed
        row = context.logits_view(place)
        found.append(token_logprobs(row, request.prompt[at + 1], request.logprobs))
        if math.isnan(found[-1].chosen.logprob):
            context.check_logits(place)
    slot.to_score -= len(found)
    if found:
        slot.job.send(Event(slot.samples[0].index, "", prompt=tuple(found)))
