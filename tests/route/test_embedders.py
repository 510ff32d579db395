"""Real embedding models: one from a wheel, one through llama.cpp."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from localllm.engine.context import Context
from localllm.engine.embed import embedding_options
from localllm.engine.model import Model
from localllm.route.embedders import GgufEmbedder, static_embedder
from localllm.route.predictors.embedded import trainer
from tests.route.known import known
from tests.support.tiny_models import tiny_bert


def test_the_static_model_of_the_wheel_knows_what_is_alike() -> None:
    pytest.importorskip("wordllama")
    embedder = static_embedder()
    vectors = embedder.embed(["a cat sat", "the kitten was sitting", "interest rates of banks", ""])
    assert vectors.shape == (4, embedder.n_dims)
    assert np.linalg.norm(vectors[:3], axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert np.isfinite(vectors).all()
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
    assert embedder.embed([]).shape == (0, embedder.n_dims)


def test_a_predictor_on_the_static_model_learns() -> None:
    pytest.importorskip("wordllama")
    predictor = trainer(static_embedder())(known(300))
    logic, cooking = predictor.scores(["theorem lemma proof axiom", "garlic butter dough oven"])
    assert logic > cooking


def test_a_gguf_model_embeds_and_cuts_long_texts(tmp_path: Path) -> None:
    with Model.load(tiny_bert(tmp_path / "bert.gguf")) as model:
        options = embedding_options(64, n_seq_max=4, pooling="mean", n_threads=1)
        with Context(model, options) as context:
            embedder = GgufEmbedder(context, "tiny")
            vectors = embedder.embed(["one two", "one two", "word " * 500])
            assert vectors.shape == (3, embedder.n_dims)
            assert vectors[0] == pytest.approx(vectors[1], abs=1e-5)
            assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)


def test_lexical_routing_loads_neither_llama_nor_an_embedding_model() -> None:
    code = (
        "import sys; import localllm.route.training, localllm.route.routerfile; "
        "print([m for m in ('llama_cpp', 'wordllama', 'sklearn', 'scipy', 'torch', 'requests')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
