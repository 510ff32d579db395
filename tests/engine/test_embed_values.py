"""The vectors themselves, against a BERT in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localllm.engine.context import Context
from localllm.engine.embed import embed, embed_tokens, embedding_options
from localllm.engine.model import Model
from localllm.errors import UsageProblem
from tests.support.tiny_mmproj import tensors_of
from tests.support.tiny_models import tiny_bert

N_HEAD, EPS = 4, 1e-12


def bert(weights: dict[str, Any], tokens: list[int]) -> Any:
    """The last layer's states, float64 [n_tokens, n_embd]: Devlin et al. 2018, post-norm, every
    token sees every other, GELU in its tanh form as ggml computes it."""
    w = {name: values.astype(np.float64) for name, values in weights.items()}

    def norm(x: Any, name: str) -> Any:
        mean, var = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
        return (x - mean) / np.sqrt(var + EPS) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Any, name: str) -> Any:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    n = len(tokens)
    x = w["token_embd.weight"][tokens] + w["token_types.weight"][0] + w["position_embd.weight"][:n]
    x = norm(x, "token_embd_norm")
    layer = 0
    while f"blk.{layer}.attn_q.weight" in w:
        b = f"blk.{layer}."
        q, k, v = (
            linear(x, b + name).reshape(n, N_HEAD, -1).transpose(1, 0, 2)
            for name in ("attn_q", "attn_k", "attn_v")
        )
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        seen = np.exp(scores - scores.max(axis=-1, keepdims=True))
        seen /= seen.sum(axis=-1, keepdims=True)
        mixed = (seen @ v).transpose(1, 0, 2).reshape(n, -1)
        x = norm(x + linear(mixed, b + "attn_output"), b + "attn_output_norm")
        up = linear(x, b + "ffn_up")
        up = 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
        x = norm(x + linear(up, b + "ffn_down"), b + "layer_output_norm")
        layer += 1
    return x


TEXTS = ("hello world", "the cat and the dog and", "x", "a b c d e f g h i j k l m n o p")


@pytest.mark.parametrize("n_seq_max", [1, 4])
def test_vectors_are_berts(tmp_path: Path, n_seq_max: int) -> None:
    path = tiny_bert(tmp_path / "bert.gguf", dtype="F32")
    weights = tensors_of(path)
    with Model.load(path) as model:
        texts = [model.tokenizer.encode(text) for text in TEXTS]
        states = [bert(weights, tokens) for tokens in texts]
        options = embedding_options(64, n_seq_max=n_seq_max, n_threads=1)
        with Context(model, options) as context:
            found = embed(context, texts)
        means = np.stack([one.mean(axis=0) for one in states])
        wanted = means / np.linalg.norm(means, axis=1, keepdims=True)
        np.testing.assert_allclose(found, wanted, atol=2e-3)
        # texts differ by far more than that
        apart = np.linalg.norm(wanted[:, None] - wanted[None], axis=-1)
        assert apart[~np.eye(len(TEXTS), dtype=bool)].min() > 0.1
        with Context(model, embedding_options(64, pooling="none", n_threads=1)) as context:
            for tokens, state in zip(texts, states, strict=True):
                np.testing.assert_allclose(embed_tokens(context, tokens), state, atol=2e-2)


def test_a_text_as_long_as_the_model_takes(tmp_path: Path) -> None:
    """The last of its 512 positions counts; one more would end the process."""
    path = tiny_bert(tmp_path / "bert.gguf", dtype="F32")
    tokens = [2, *(5 + i * 7 % 190 for i in range(510)), 3]
    with (
        Model.load(path) as model,
        Context(model, embedding_options(1024, n_seq_max=2, n_threads=1)) as context,
    ):
        (found,) = embed(context, [tokens], normalize=False)
        with pytest.raises(UsageProblem, match="text 1 is 513 tokens, at most 512"):
            embed(context, [tokens, [*tokens, 5]])
    np.testing.assert_allclose(found, bert(tensors_of(path), tokens).mean(axis=0), atol=5e-3)
