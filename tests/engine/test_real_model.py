"""The same on a real language model."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from localllm.engine.context import Context
from localllm.engine.embed import embed, embedding_options
from localllm.engine.generator import LocalGenerator
from localllm.engine.measure import time_generation, time_prompt
from localllm.engine.options import ContextOptions
from localllm.engine.parallel import generate_many
from localllm.engine.quantize.quantize import QuantizeOptions, plan_quantize
from localllm.generation import Message, Sampling
from tests.engine.conftest import bare_greedy, ctrl_c

pytestmark = pytest.mark.model

GREEDY = Sampling(temperature=0.0, max_tokens=16)


@pytest.fixture(scope="module")
def generator(real_gguf: Path) -> Iterator[LocalGenerator]:
    options = ContextOptions(n_ctx=4096, n_threads=1)
    with LocalGenerator.open(real_gguf, context=options) as opened:
        yield opened


def test_it_knows_something(generator: LocalGenerator) -> None:
    """What follows is far likelier than chance: of a vocabulary of thousands, " Paris" is near."""
    tokenizer = generator.session.tokenizer
    generator.session.reset()
    context = generator.context
    context.prefill(tokenizer.encode("Berlin is the capital of Germany. Paris is the capital of"))
    (expected,) = tokenizer.encode(" France", add_special=False)
    assert expected in np.argsort(-context.logits())[:3]


def test_greedy_equals_a_bare_loop(generator: LocalGenerator) -> None:
    prompt = generator.session.tokenizer.encode("Once upon a time")
    stream = generator.complete("Once upon a time", GREEDY)
    text = "".join(piece.text for piece in stream)
    assert stream.tokens == bare_greedy(generator.context.model, prompt, 16)
    assert text
    assert "\ufffd" not in text


def test_a_conversation_goes_on_from_the_cache(generator: LocalGenerator) -> None:
    talk = [Message("user", "Name a colour.")]
    answer = "".join(piece.text for piece in generator.generate(talk, GREEDY))
    stream = generator.generate(
        [*talk, Message("assistant", answer), Message("user", "Another.")], GREEDY
    )
    list(stream)
    assert stream.accounting is not None
    assert stream.accounting.cached_tokens >= len(generator.prompt(talk)) - 1


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="POSIX signals")
def test_ctrl_c_in_a_long_prompt_is_heard_at_once(generator: LocalGenerator) -> None:
    stream = generator.complete("word " * 3500, GREEDY)
    begun = time.perf_counter()
    with ctrl_c(0.5), pytest.raises(KeyboardInterrupt):
        list(stream)
    assert time.perf_counter() - begun < 10  # the whole prompt takes tens of seconds
    assert "".join(piece.text for piece in generator.complete("Hello", GREEDY))


def test_the_rest_runs(generator: LocalGenerator) -> None:
    model = generator.context.model
    tokens = [model.tokenizer.encode(text) for text in ("The sun", "Rain falls on")]
    with Context(model, ContextOptions(n_ctx=1024, n_seq_max=2, n_threads=1)) as context:
        for one in generate_many(context, tokens, [GREEDY] * 2):
            assert one.text
        assert len(time_prompt(context, 64, 1)) == len(time_generation(context, 4, 1)) == 1
    with Context(model, embedding_options(64, pooling="mean", n_threads=1)) as context:
        vectors = embed(context, [model.tokenizer.encode(t) for t in ("cat", "kitten", "tax law")])
    assert float(vectors[0] @ vectors[1]) > float(vectors[0] @ vectors[2])
    plan = plan_quantize(model.path, QuantizeOptions("Q2_K", allow_requantize=True))
    assert plan.after_bytes < plan.before_bytes
