"""Which tokens are scored after which, and that the logits are those of the positions."""

from __future__ import annotations

import numpy as np
import pytest

from localllm.engine.model import Model
from localllm.engine.quality.chunks import batch_size, chunks_of, rows_of
from localllm.errors import EngineError, UsageProblem
from tests.engine.conftest import MakeContext

TEXT = "the cat and the dog saw hello world in a garden of forms. " * 12


def test_the_second_half_is_scored_after_bos() -> None:
    first, second = chunks_of(list(range(100, 125)), 10, 1)
    assert first.tokens == (1, *range(101, 110))
    assert second.tokens == (1, *range(111, 120))
    # perplexity.cpp: position n_ctx / 2 is the first that is asked for the next token
    assert first.first == 5
    assert first.targets == (106, 107, 108, 109)
    assert second.targets == (116, 117, 118, 119)
    assert [c.number for c in chunks_of(list(range(50)), 10, None, limit=3)] == [1, 2, 3]
    assert chunks_of(list(range(20)), 10, None)[1].tokens == tuple(range(10, 20))
    odd = chunks_of(list(range(22)), 11, None)[0]
    assert (odd.first, odd.targets) == (5, (6, 7, 8, 9, 10))


def test_only_the_end_is_scored_on_request() -> None:
    (chunk, _) = chunks_of(list(range(40)), 20, None, n_scored=3)
    assert (chunk.first, chunk.targets) == (16, (17, 18, 19))


@pytest.mark.parametrize(
    ("n_tokens", "n_ctx", "n_scored"), [(19, 10, None), (0, 10, None), (100, 3, None),
                                        (100, 10, 10), (100, 10, 0)],
)  # fmt: skip
def test_what_cannot_be_cut(n_tokens: int, n_ctx: int, n_scored: int | None) -> None:
    with pytest.raises(UsageProblem):
        chunks_of([5] * n_tokens, n_ctx, None, n_scored=n_scored)


@pytest.mark.parametrize("n_ctx", [4, 100, 128, 512, 513, 4096])
def test_a_call_never_leaves_more_rows_than_it_says(n_ctx: int) -> None:
    size = batch_size(n_ctx)
    (chunk, *_) = chunks_of(list(range(2 * n_ctx)), n_ctx, None)
    if n_ctx <= size.n_batch:
        assert size.n_parallel * n_ctx <= size.n_batch
        assert size.n_rows == size.n_parallel * chunk.n_scored
    else:
        assert size.n_rows == min(size.n_batch, chunk.n_scored)


@pytest.mark.parametrize(
    "sizes",
    [
        {"n_ctx": 64, "n_batch": 64, "n_ubatch": 64},  # one chunk a call
        {"n_ctx": 256, "n_batch": 256, "n_seq_max": 4},  # four
        {"n_ctx": 64, "n_batch": 24, "n_ubatch": 24},  # a chunk in three calls
    ],
)
@pytest.mark.parametrize("which", ["llama", "gemma", "mamba"])
def test_rows_are_the_logits_of_their_positions(
    make_context: MakeContext, sizes: dict[str, int], which: str, request: pytest.FixtureRequest
) -> None:
    model: Model = request.getfixturevalue(which)
    if which == "mamba":
        sizes = {**sizes, "n_ctx": max(256, sizes["n_ctx"])}
    chunks = chunks_of(model.tokenizer.encode(TEXT), 64, model.tokenizer.bos, limit=5)
    found: dict[int, list[np.ndarray]] = {}
    for rows in rows_of(make_context(model, **sizes), chunks):
        assert rows.start == len(found.get(rows.chunk.number, []))
        found.setdefault(rows.chunk.number, []).extend(rows.logits.copy())
        assert len(rows.targets) == len(rows.logits)
    plain = make_context(model)
    for chunk in chunks:
        assert len(found[chunk.number]) == chunk.n_scored == 31
        plain.clear()
        for position, token in enumerate(chunk.tokens[: chunk.first + chunk.n_scored]):
            plain.prefill([token])
            if position >= chunk.first:
                row = found[chunk.number][position - chunk.first]
                np.testing.assert_allclose(row, plain.logits(), atol=0.06)


def test_what_has_no_logits_is_refused(make_context: MakeContext, bert: Model) -> None:
    chunks = chunks_of(list(range(5, 69)), 32, None)
    with pytest.raises(EngineError, match="does not generate text"):
        next(rows_of(make_context(bert, embeddings=True), chunks))


def test_a_chunk_longer_than_the_context_is_refused(
    make_context: MakeContext, llama: Model
) -> None:
    context = make_context(llama, n_ctx=256, n_seq_max=1)
    with pytest.raises(UsageProblem, match="longer than the context"):
        next(rows_of(context, chunks_of([5] * 1024, 512, None)))
