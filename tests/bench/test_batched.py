"""Batched throughput: what is decoded, what fails, what goes on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from localllm.engine.context import Context
from localllm.errors import DamagedFile, FileGone, UsageProblem
from localllm.library.bench.measuring.batched import batched
from localllm.placement import PlanOptions
from tests.support.tiny_models import tiny_gemma3, tiny_llama, tiny_mamba


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, int, bool]]]:
    """(position, sequence, output) of every token of every decoded batch."""
    kept: list[list[tuple[int, int, bool]]] = []
    original = Context.decode

    def decode(self: Context, batch: Any) -> None:
        kept.append(
            [(batch.pos[i], batch.seq_id[i][0], bool(batch.logits[i]))
             for i in range(batch.n_tokens)]
        )  # fmt: skip
        original(self, batch)

    monkeypatch.setattr(Context, "decode", decode)
    return kept


@pytest.mark.parametrize("build", [tiny_llama, tiny_gemma3, tiny_mamba])
def test_rows_in_the_order_asked_for(build: Any, tmp_path: Path) -> None:
    steps: list[int] = []
    rows = batched(build(tmp_path / "m.gguf"), (1, 4, 2), 24, 6, advance=steps.append)
    assert [r.n_parallel for r in rows] == [1, 4, 2]
    assert sum(steps) == 3
    for row in rows:
        assert row.failure is None
        assert row.prompt_tps == pytest.approx(row.n_parallel * 24 / row.prompt_s)
        assert row.decode_tps == pytest.approx(row.n_parallel * 6 / row.decode_s)


def test_the_batches_are_llama_batched_benchs(
    tmp_path: Path, batches: list[list[tuple[int, int, bool]]]
) -> None:
    options = PlanOptions(n_batch=64, n_ubatch=64)
    batched(tiny_llama(tmp_path / "m.gguf"), (3,), 40, 5, options)
    warm, *prompts = batches[:-5]
    assert warm == [(i, 0, False) for i in range(16)]
    assert [len(b) for b in prompts] == [64, 56]  # 3 x 40 in batches of 64
    fed = [token for batch in prompts for token in batch]
    assert fed == [(i, s, i == 39) for s in range(3) for i in range(40)]
    for i, batch in enumerate(batches[-5:]):
        assert batch == [(40 + i, s, True) for s in range(3)]


def test_what_does_not_fit_is_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf", n_ctx_train=1 << 30)
    rows = batched(path, (2, 300, 100_000_000), 16, 4)
    kinds = Counter(r.failure.kind if r.failure else "done" for r in rows)
    # llama.cpp has at most 256 sequences; so many caches are more than any memory.
    assert kinds == {"done": 1, "refused": 1, "does_not_fit": 1}
    assert rows[0].failure is None and rows[0].decode_tps > 0
    assert rows[2].failure is not None and "needs" in rows[2].failure.message
    assert (rows[2].prompt_s, rows[2].decode_tps) == (0.0, 0.0)


def test_a_level_that_fails_while_it_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.errors import EngineError

    original = Context.decode

    def decode(self: Context, batch: Any) -> None:
        if self.n_seq_max == 4:
            raise EngineError("llama.cpp could not decode: failed to allocate buffer")
        original(self, batch)

    monkeypatch.setattr(Context, "decode", decode)
    rows = batched(tiny_llama(tmp_path / "m.gguf"), (1, 4), 16, 4)
    assert rows[0].failure is None
    assert rows[1].failure is not None and rows[1].failure.kind == "out_of_memory"


def test_what_concerns_the_model_is_raised(tmp_path: Path) -> None:
    with pytest.raises(FileGone):
        batched(tmp_path / "none.gguf", (1, 2), 8, 2)
    damaged = tiny_llama(tmp_path / "m.gguf")
    damaged.write_bytes(damaged.read_bytes()[:-5000])
    with pytest.raises(DamagedFile):
        batched(damaged, (1, 2), 8, 2)
    with pytest.raises(UsageProblem):
        batched(tiny_llama(tmp_path / "t.gguf"), (0, 1), 8, 2)
    with pytest.raises(UsageProblem):
        batched(tiny_llama(tmp_path / "t.gguf"), (), 8, 2)
