"""Texts to vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from localllm.engine import native
from localllm.engine.batching import TokenBatch
from localllm.engine.context import Context
from localllm.engine.options import ContextOptions, Pooling
from localllm.errors import EngineError, UsageProblem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Advance = Callable[[int], None]

# llama.cpp's pooling numbers, for what a model's own pooling turns out to be
_NONE, _RANK = 0, 4


def embedding_options(
    n_tokens_max: int, *, n_seq_max: int = 16, pooling: Pooling = "unspecified", n_threads: int = 0
) -> ContextOptions:
    """A context for texts of up to `n_tokens_max` tokens, `n_seq_max` of them at once.

    A text must lie in one physical batch for its pooled vector to cover all of it, so
    n_ubatch = n_batch = n_ctx; "unspecified" takes the pooling that the model names.
    """
    whole = -(-n_tokens_max // n_seq_max) * n_seq_max  # see Context: a multiple, or it asserts
    return ContextOptions(
        n_ctx=whole,
        n_batch=whole,
        n_ubatch=whole,
        n_seq_max=n_seq_max,
        n_threads=n_threads,
        embeddings=True,
        pooling=pooling,
        kv_unified=True,
    )


def embed(
    context: Context,
    texts: Sequence[Sequence[int]],
    *,
    normalize: bool = True,
    advance: Advance | None = None,
) -> NDArray[np.float32]:
    """One vector a text: float32 [n_texts, n_embd], of length 1 if `normalize`.

    `texts` are token lists (`Tokenizer.encode`). `context` comes from `embedding_options`;
    several texts are computed together as they fit. `advance` counts texts.
    Raises UsageProblem for an empty text or one that is longer than the context's batch,
    EngineError when the context does not pool.
    """
    import numpy as np

    llama = native.lib()
    kind = llama.llama_pooling_type(context.handle)
    if kind == _NONE:
        raise EngineError(
            f"{context.model.path.name} pools no vectors by itself",
            "choose how: pooling mean, cls or last",
        )
    _check(context, texts)
    n_embd = context.model.info.n_embd_out if kind != _RANK else _n_scores(context)
    vectors = np.zeros((len(texts), n_embd), dtype=np.float32)
    for first, last in _groups(texts, context.n_ubatch, context.n_seq_max):
        _compute(context, texts[first:last])
        for i in range(first, last):
            pointer = llama.llama_get_embeddings_seq(context.handle, i - first)
            if not pointer:
                raise EngineError(f"llama.cpp gave no vector for text {i}")
            vectors[i] = np.ctypeslib.as_array(pointer, (n_embd,))
        if advance is not None:
            advance(last - first)
    return _unit(vectors) if normalize and kind != _RANK else vectors


def embed_tokens(
    context: Context, tokens: Sequence[int], *, normalize: bool = False
) -> NDArray[np.float32]:
    """One vector a token: float32 [n_tokens, n_embd]. The context must have pooling "none"."""
    import numpy as np

    llama = native.lib()
    if llama.llama_pooling_type(context.handle) != _NONE:
        raise EngineError("token vectors need a context with pooling none")
    _check(context, [tokens])
    _compute(context, [tokens])
    n_embd = context.model.info.n_embd_out
    rows = [
        np.ctypeslib.as_array(llama.llama_get_embeddings_ith(context.handle, i), (n_embd,)).copy()
        for i in range(len(tokens))
    ]
    return _unit(np.stack(rows)) if normalize else np.stack(rows)


def _n_scores(context: Context) -> int:
    return int(native.lib().llama_model_n_cls_out(context.model.handle))


def _check(context: Context, texts: Sequence[Sequence[int]]) -> None:
    if not context.options.embeddings:
        raise EngineError("this context was not made for embeddings")
    n_vocab = context.model.tokenizer.n_vocab
    # Past the positions that a model was trained for BERT ends the process, others give nonsense.
    most = min(context.n_ubatch, context.model.info.n_ctx_train or context.n_ubatch)
    for i, tokens in enumerate(texts):
        if not tokens:
            raise UsageProblem(f"text {i} is empty")
        if len(tokens) > most:
            raise UsageProblem(
                f"text {i} is {len(tokens)} tokens, at most {most} are embedded at once"
            )
        if not all(0 <= token < n_vocab for token in tokens):
            raise UsageProblem(f"text {i} holds tokens that this model does not have")


def _groups(
    texts: Sequence[Sequence[int]], n_tokens_max: int, n_texts_max: int
) -> list[tuple[int, int]]:
    """(first, last + 1) of texts that fit one batch together, in order."""
    groups: list[tuple[int, int]] = []
    first = n_tokens = 0
    for i, tokens in enumerate(texts):
        if i > first and (n_tokens + len(tokens) > n_tokens_max or i - first == n_texts_max):
            groups.append((first, i))
            first, n_tokens = i, 0
        n_tokens += len(tokens)
    return [*groups, (first, len(texts))] if texts else []


def _compute(context: Context, texts: Sequence[Sequence[int]]) -> None:
    context.clear()
    with TokenBatch(sum(map(len, texts))) as batch:
        for sequence, tokens in enumerate(texts):
            for position, token in enumerate(tokens):
                batch.add(token, position, sequence, output=True)
        context.arm()
        context.interruptible(lambda: context.decode(batch.native))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to Euclidean length 1; zero rows stay zero."""
    import numpy as np

    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(lengths == 0, 1.0, lengths)).astype(np.float32)
