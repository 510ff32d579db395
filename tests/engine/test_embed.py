"""Texts to vectors, against arithmetic on the token vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from localllm.engine.context import Context
from localllm.engine.embed import embed, embed_tokens, embedding_options
from localllm.engine.model import Model
from localllm.engine.options import Pooling
from localllm.errors import EngineError, UsageProblem

TEXTS = ["hello world", "the cat and the dog", "x", "hello", "a b c d e f g h i j k"]


def vectors(model: Model, pooling: Pooling, normalize: bool = False) -> np.ndarray:
    texts = [model.tokenizer.encode(text) for text in TEXTS]
    options = embedding_options(64, n_seq_max=3, pooling=pooling, n_threads=1)
    with Context(model, options) as context:
        return embed(context, texts, normalize=normalize)


@pytest.mark.parametrize("name", ["llama", "bert", "gemma"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_pooling_is_what_it_says_of_the_token_vectors(
    name: str, pooling: Pooling, request: pytest.FixtureRequest
) -> None:
    model: Model = request.getfixturevalue(name)
    found = vectors(model, pooling)
    assert found.shape == (len(TEXTS), model.info.n_embd_out)
    assert found.dtype == np.float32
    with Context(model, embedding_options(64, pooling="none", n_threads=1)) as context:
        for text, vector in zip(TEXTS, found, strict=True):
            tokens = embed_tokens(context, model.tokenizer.encode(text))
            assert tokens.shape == (len(model.tokenizer.encode(text)), model.info.n_embd_out)
            expected = {"mean": tokens.mean(axis=0), "cls": tokens[0], "last": tokens[-1]}[pooling]
            np.testing.assert_allclose(vector, expected, rtol=2e-3, atol=2e-3)


def test_normalized_rows_have_length_one(bert: Model) -> None:
    found = vectors(bert, "unspecified", normalize=True)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)
    plain = vectors(bert, "mean")
    expected = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_token_vectors_normalized(bert: Model) -> None:
    with Context(bert, embedding_options(64, pooling="none", n_threads=1)) as context:
        rows = embed_tokens(context, bert.tokenizer.encode("hello world"), normalize=True)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)


def test_a_text_alone_and_among_others_is_the_same_vector(bert: Model) -> None:
    texts = [bert.tokenizer.encode(text) for text in TEXTS]
    done: list[int] = []
    with Context(bert, embedding_options(64, n_threads=1)) as context:
        together = embed(context, texts, advance=done.append)
        alone = np.concatenate([embed(context, [text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=2e-4)
    assert sum(done) == len(texts)


def test_a_batch_that_does_not_divide_is_refused_not_fatal(bert: Model) -> None:
    odd = replace(embedding_options(64, n_threads=1), n_seq_max=3)
    with pytest.raises(UsageProblem, match="multiple of n_seq_max"):
        Context(bert, odd)
    assert embedding_options(64, n_seq_max=3).n_ubatch == 66


def test_no_texts(bert: Model) -> None:
    with Context(bert, embedding_options(64, n_threads=1)) as context:
        assert embed(context, []).shape == (0, bert.info.n_embd_out)


def test_what_cannot_be_embedded(bert: Model, llama: Model) -> None:
    with Context(bert, embedding_options(64, n_threads=1)) as context:
        with pytest.raises(UsageProblem, match="text 1 is empty"):
            embed(context, [[2, 3], []])
        with pytest.raises(UsageProblem, match=r"text 0 is 65 tokens, at most 64"):
            embed(context, [[5] * 65])
        with pytest.raises(UsageProblem, match="does not have"):
            embed(context, [[10**7]])
        with pytest.raises(EngineError, match="pooling none"):
            embed_tokens(context, [2, 3])
    with (
        Context(llama, embedding_options(64, n_threads=1)) as context,
        pytest.raises(EngineError, match="pools no vectors"),
    ):
        embed(context, [[2, 3]])
    plain = replace(embedding_options(64, pooling="mean", n_threads=1), embeddings=False)
    with Context(llama, plain) as context, pytest.raises(EngineError, match="not made for"):
        embed(context, [[2, 3]])
