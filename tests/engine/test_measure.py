"""llama-bench's method: what is fed, when, and what is timed."""

from __future__ import annotations

import time

import pytest

from localllm.engine.context import Context
from localllm.engine.measure import time_generation, time_prompt
from localllm.engine.model import Model
from localllm.errors import UsageProblem
from tests.engine.conftest import MakeContext


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The tokens of every llama_decode, as the library is handed them."""
    batches: list[list[int]] = []
    decode = Context.decode

    def spy(self: Context, batch: object) -> None:
        n = batch.n_tokens  # type: ignore[attr-defined]
        batches.append(batch.token[:n])  # type: ignore[attr-defined]
        decode(self, batch)

    monkeypatch.setattr(Context, "decode", spy)
    return batches


def test_prompt_goes_in_whole_batches_and_bos_leads(
    llama: Model, make_context: MakeContext, fed: list[list[int]]
) -> None:
    context = make_context(llama, n_batch=64)
    samples = time_prompt(context, 150, 2)
    assert len(samples) == 2
    assert [len(batch) for batch in fed] == [64, 64, 22] * 3  # a whole warm-up, two timed
    assert {fed[i][0] for i in (0, 3, 6)} == {llama.tokenizer.bos}
    assert all(0 <= token < llama.info.n_vocab for batch in fed for token in batch)
    assert fed[0] != fed[3]  # other random tokens each time


def test_generation_goes_one_by_one(
    llama: Model, make_context: MakeContext, fed: list[list[int]]
) -> None:
    done: list[int] = []
    samples = time_generation(make_context(llama), 7, 3, advance=done.append)
    assert len(samples) == 3
    assert [len(batch) for batch in fed] == [1] * (1 + 3 * 7)
    assert sum(done) == 4
    assert fed[1] == [llama.tokenizer.bos]


def test_depth_is_filled_and_not_timed(
    llama: Model, make_context: MakeContext, fed: list[list[int]]
) -> None:
    context = make_context(llama, n_batch=128)
    begun = time.perf_counter_ns()
    (sample,) = time_generation(context, 2, 1, depth=300, warm_up=False)
    assert [len(batch) for batch in fed] == [128, 128, 44, 1, 1]
    assert 0 < sample < time.perf_counter_ns() - begun
    assert context.length() == 0


def test_samples_are_nanoseconds_of_the_work(llama: Model, make_context: MakeContext) -> None:
    context = make_context(llama)
    begun = time.perf_counter_ns()
    samples = time_prompt(context, 256, 5, warm_up=False)
    wall = time.perf_counter_ns() - begun
    assert 0 < sum(samples) <= wall


@pytest.mark.parametrize(("n", "depth"), [(0, 0), (-5, 0), (1, -1), (500, 100)])
def test_what_cannot_be_measured(
    llama: Model, make_context: MakeContext, n: int, depth: int
) -> None:
    with pytest.raises(UsageProblem):
        time_prompt(make_context(llama), n, 1, depth=depth)
