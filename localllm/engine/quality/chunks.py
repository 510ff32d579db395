"""A text cut into contexts that are scored, and the logits of their scored positions.

llama-perplexity's way (tools/perplexity/perplexity.cpp): contexts of `n_ctx` tokens one after
the other, the first token replaced by BOS where the vocabulary adds one, the first half of each
not scored, so that every scored token has at least half a context before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm.engine import native
from localllm.engine.batching import TokenBatch
from localllm.engine.context import Context
from localllm.errors import EngineError, UsageProblem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# One physical batch of llama.cpp. More tokens a call change neither the logits (bit for bit the
# same, measured) nor the time, and each scored position of a call holds a row of logits: 1 MiB
# at a vocabulary of 262k.
N_UBATCH = 512

_LEAST_CTX = 4  # two scored positions


@dataclass(frozen=True)
class Chunk:
    """One context. Position `first + i` of `tokens` is scored against `targets[i]`, the token
    that follows it in the text. `number` counts from 1, for messages."""

    number: int
    tokens: tuple[int, ...]
    first: int
    targets: tuple[int, ...]

    @property
    def n_scored(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class BatchSize:
    """Context options for chunks of one length: `n_parallel` of them are computed at once."""

    n_parallel: int
    n_batch: int
    n_ubatch: int
    n_rows: int  # of logits that one call may leave


def batch_size(n_ctx: int) -> BatchSize:
    """What to make a context with to score chunks of `n_ctx` tokens."""
    n_parallel = max(1, N_UBATCH // n_ctx)
    scored = n_ctx - 1 - n_ctx // 2
    n_rows = n_parallel * scored if n_ctx <= N_UBATCH else min(N_UBATCH, scored)
    return BatchSize(n_parallel, N_UBATCH, N_UBATCH, n_rows)


def chunks_of(
    tokens: Sequence[int],
    n_ctx: int,
    bos: int | None,
    *,
    n_scored: int | None = None,
    limit: int | None = None,
) -> tuple[Chunk, ...]:
    """Whole contexts of `n_ctx` tokens, in order, at most `limit` of them; the rest is left out.

    `bos` replaces each first token (None: it stays). `n_scored` scores so many positions at the
    end of each context; None scores the second half, as llama-perplexity does.
    Raises UsageProblem where the text gives fewer than two contexts, as llama-perplexity does.
    """
    if n_ctx < _LEAST_CTX:
        raise UsageProblem(f"a context of {n_ctx} tokens is too short to score", "--ctx 512")
    if n_scored is not None and not 0 < n_scored < n_ctx:
        raise UsageProblem(f"{n_scored} positions cannot be scored in a context of {n_ctx}")
    if len(tokens) < 2 * n_ctx:
        raise UsageProblem(
            f"the text is {len(tokens)} tokens; contexts of {n_ctx} need at least {2 * n_ctx}",
            f"a longer text, or --ctx {max(_LEAST_CTX, len(tokens) // 4)}",
        )
    n_chunks = len(tokens) // n_ctx if limit is None else min(limit, len(tokens) // n_ctx)
    first = n_ctx // 2 if n_scored is None else n_ctx - 1 - n_scored
    chunks = []
    for i in range(n_chunks):
        own = tuple(tokens[i * n_ctx : (i + 1) * n_ctx])
        fed = own if bos is None else (bos, *own[1:])
        chunks.append(Chunk(i + 1, fed, first, own[first + 1 :]))
    return tuple(chunks)


@dataclass(frozen=True)
class Rows:
    """Logits [n, n_vocab] of `chunk`'s scored positions from `start` on, where llama.cpp keeps
    them: valid until the next is asked for."""

    chunk: Chunk
    start: int
    logits: NDArray[np.float32]

    @property
    def targets(self) -> tuple[int, ...]:
        return self.chunk.targets[self.start : self.start + len(self.logits)]


def rows_of(context: Context, chunks: Sequence[Chunk]) -> Iterator[Rows]:
    """Compute `chunks` and give the logits of their scored positions, in order, each chunk's in
    one or more parts.

    As many chunks are computed at once as the context has sequences and room for. Its memory is
    cleared before each. Ctrl-C ends the computation within a graph node.
    Raises EngineError for models that do not generate text, UsageProblem where a chunk is
    longer than a sequence of the context.
    """
    context.require_generation()
    longest = max((len(chunk.tokens) for chunk in chunks), default=0)
    if longest > context.n_ctx_seq:
        raise UsageProblem(
            f"a chunk of {longest} tokens is longer than the context of {context.n_ctx_seq}"
        )
    with TokenBatch(context.n_batch) as batch:
        at = 0
        while at < len(chunks):
            n = _together(context, chunks[at:])
            yield from _compute(context, batch, chunks[at : at + n])
            at += n


def _together(context: Context, chunks: Sequence[Chunk]) -> int:
    """How many of the next chunks one call takes: at least one."""
    n_tokens = 0
    for n, chunk in enumerate(chunks[: context.n_seq_max]):
        n_tokens += len(chunk.tokens)
        if n_tokens > context.n_batch:
            return max(1, n)
    return min(len(chunks), context.n_seq_max)


def _compute(context: Context, batch: TokenBatch, chunks: Sequence[Chunk]) -> Iterator[Rows]:
    """One call for several chunks, or several calls for one that is longer than the batch."""
    context.clear()
    for begin in range(0, len(chunks[0].tokens), context.n_batch):
        batch.clear()
        parts: list[tuple[Chunk, int, int]] = []
        for sequence, chunk in enumerate(chunks):
            end = min(begin + context.n_batch, len(chunk.tokens))
            last = chunk.first + chunk.n_scored
            for position in range(begin, end):
                scored = chunk.first <= position < last
                batch.add(chunk.tokens[position], position, sequence, output=scored)
            lowest = max(begin, chunk.first)
            parts.append((chunk, lowest - chunk.first, max(0, min(end, last) - lowest)))
        context.arm()
        context.interruptible(lambda: context.decode(batch.native))
        yield from _views(context, parts)


def _views(context: Context, parts: Sequence[tuple[Chunk, int, int]]) -> Iterator[Rows]:
    import numpy as np

    n_outputs = sum(n for _, _, n in parts)
    if not n_outputs:
        return
    n_vocab = context.model.info.n_vocab
    pointer = native.lib().llama_get_logits(context.handle)
    if not pointer:
        raise EngineError(f"{context.model.path.name} computed no logits")
    table = np.ctypeslib.as_array(pointer, (n_outputs, n_vocab))
    at = 0
    for chunk, start, n in parts:
        if n:
            yield Rows(chunk, start, table[at : at + n])
        at += n
