"""Latency through the real generation path."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest

from localllm.engine.stream import TokenStream
from localllm.errors import UsageProblem
from localllm.generation import Accounting
from localllm.library.bench.measuring.latency import latency, percentiles
from localllm.placement import PlanOptions, open_model
from tests.support.tiny_models import tiny_chain, tiny_gemma3, tiny_llama, tiny_mamba


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> list[Accounting]:
    """The engine's account of every answer."""
    kept: list[Accounting] = []
    original = TokenStream._account

    def account(self: TokenStream) -> Accounting:
        kept.append(original(self))
        return kept[-1]

    monkeypatch.setattr(TokenStream, "_account", account)
    return kept


@pytest.mark.parametrize("build", [tiny_llama, tiny_gemma3, tiny_mamba])
def test_every_answer_is_whole_and_nothing_is_cached(
    build: type, tmp_path: Path, accounts: list[Accounting]
) -> None:
    steps: list[int] = []
    begun = time.perf_counter()
    with open_model(build(tmp_path / "m.gguf"), PlanOptions(n_ctx=256)) as opened:
        row = latency(opened, 40, 12, 3, advance=steps.append)
    took = time.perf_counter() - begun
    assert (row.n_prompt, row.n_gen, row.n_answers) == (40, 12, 3)
    assert sum(steps) == len(accounts) == 4  # one warms up
    for account in accounts:
        assert (account.prompt_tokens, account.completion_tokens) == (40, 12)
        # BOS is the same in all of them: a plain attention cache may keep that one cell.
        assert account.cached_tokens <= 1
        assert account.finish_reason == "length"
    assert row.first_token.n == 3
    assert 0 < row.inter_token.n <= 3 * 11
    assert 0 < row.first_token.p50_s <= row.first_token.max_s < took
    assert row.prompt_tps == pytest.approx(
        sum(a.prompt_tokens - a.cached_tokens for a in accounts[1:])
        / sum(a.prompt_s for a in accounts[1:])
    )
    assert row.decode_tps == pytest.approx(33 / sum(a.decode_s for a in accounts[1:]))


def test_a_model_that_wants_to_end_is_not_let(tmp_path: Path, accounts: list[Accounting]) -> None:
    """A chain that ends after a few tokens: with EOG heeded, answers would be short."""
    path = tiny_chain(tmp_path / "m.gguf", {ord("a"): ord("b")})
    with open_model(path, PlanOptions(n_ctx=256)) as opened:
        row = latency(opened, 8, 30, 2)
    assert [a.completion_tokens for a in accounts] == [30, 30, 30]
    assert row.first_token.n == 2


def test_a_context_too_short_is_refused(tmp_path: Path) -> None:
    with open_model(tiny_llama(tmp_path / "m.gguf"), PlanOptions(n_ctx=256)) as opened:
        with pytest.raises(UsageProblem, match="do not fit the context of 256"):
            latency(opened, 200, 57, 1)
        with pytest.raises(UsageProblem):
            latency(opened, 0, 5, 1)


def test_percentiles_are_pythons() -> None:
    values = [0.5, 0.1, 0.9, 0.3, 0.2, 0.8, 0.7]
    found = percentiles(values)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    assert (found.n, found.max_s) == (7, 0.9)
    assert found.mean_s == pytest.approx(0.5)
    assert found.p50_s == pytest.approx(cuts[49])
    assert found.p90_s == pytest.approx(cuts[89])
    assert found.p95_s == pytest.approx(cuts[94])
    assert found.p99_s == pytest.approx(cuts[98])
    assert percentiles([0.25]).p99_s == 0.25
    assert percentiles([]).n == 0
