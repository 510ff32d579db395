"""Drafting on a real language model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.engine.context import Context
from localllm.engine.draft.draft import DraftAccounting, DraftGenerator, DraftOptions
from localllm.engine.generator import LocalGenerator
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions
from localllm.generation import Sampling

pytestmark = pytest.mark.model

OPTIONS = ContextOptions(n_ctx=1024, n_threads=2)
GREEDY = Sampling(temperature=0.0, max_tokens=32)
ALWAYS = DraftOptions(n_max=5, p_min=0.0)
TEXTS = (
    "Once upon a time",
    "The capital of France is Paris. The capital of Germany is",
    "one two three four five one two three four five one two three",
    "def add(a, b):\n    return a + b\n\ndef sub(a, b):\n",
)


@pytest.fixture(scope="module")
def model(real_gguf: Path) -> Iterator[Model]:
    with Model.load(real_gguf) as opened:
        yield opened


@pytest.mark.parametrize("who", ["itself", "lookup"])
def test_greedy_answers_are_the_models_own(model: Model, who: str) -> None:
    """Token for token, or where they part the two best lie closer than batches of different
    sizes may differ. A window of 512 tokens, left behind in none of these."""
    with (
        Context(model, OPTIONS) as first,
        Context(model, OPTIONS) as second,
        Context(model, OPTIONS) as third,
    ):
        plain = LocalGenerator(first)
        generator = DraftGenerator(second, third if who == "itself" else None, options=ALWAYS)
        drafted = accepted = 0
        for text in TEXTS:
            wanted, found = plain.complete(text, GREEDY), generator.complete(text, GREEDY)
            list(wanted)
            list(found)
            account = found.accounting
            assert isinstance(account, DraftAccounting)
            drafted, accepted = drafted + account.drafted, accepted + account.accepted
            pairs = enumerate(zip(wanted.tokens, found.tokens, strict=True))
            at = next((i for i, (a, b) in pairs if a != b), None)
            if at is not None:
                first.clear()
                prompt = model.tokenizer.encode(text)
                first.prefill([*prompt, *wanted.tokens[:at]])
                logits = first.logits()
                gap = logits[wanted.tokens[at]] - logits[found.tokens[at]]
                assert abs(gap) < 0.3, (text, at)
        assert accepted > (0.8 if who == "itself" else 0.3) * drafted > 20


def test_it_draws_as_without_a_draft(model: Model) -> None:
    """The same seed, the same beginning at least: rounding may part them later."""
    with Context(model, OPTIONS) as first, Context(model, OPTIONS) as second:
        plain, generator = LocalGenerator(first), DraftGenerator(second, options=ALWAYS)
        same = 0
        for seed in range(4):
            sampling = replace(GREEDY, temperature=0.8, seed=seed, max_tokens=16)
            streams = [g.complete(TEXTS[2], sampling) for g in (plain, generator)]
            for stream in streams:
                list(stream)
            same += streams[0].tokens == streams[1].tokens
        assert same >= 2
