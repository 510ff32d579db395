"""Clients at the scheduler: every answer counted, the gap to batched rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localllm.errors import DamagedFile, FileGone, UsageProblem
from localllm.library.bench.record import BatchedRow
from localllm.library.bench.serving import serving
from localllm.placement import PlanOptions
from tests.support.tiny_models import tiny_gemma3, tiny_llama, tiny_mamba


@pytest.mark.parametrize("build", [tiny_llama, tiny_gemma3, tiny_mamba])
def test_rows_in_the_order_asked_for(build: Any, tmp_path: Path) -> None:
    steps: list[int] = []
    peers = [BatchedRow(4, 24, 6, 0.5, 192.0, 1.0, 24.0)]
    rows = serving(
        build(tmp_path / "m.gguf"), (1, 4, 2), 24, 6, n_each=2, batched=peers, advance=steps.append
    )
    assert [row.n_parallel for row in rows] == [1, 4, 2]
    assert sum(steps) == 3
    for row in rows:
        assert row.failure is None
        assert row.n_requests == 2 * row.n_parallel
        # every token of every answer: none ended early
        assert row.decode_tps * row.total_s == pytest.approx(row.n_requests * 6)
        assert row.requests_s * row.total_s == pytest.approx(row.n_requests)
        assert row.first_token.n == row.n_requests
        assert row.inter_token.n == row.n_requests * 5
        assert 0 < row.first_token.p50_s <= row.first_token.max_s < row.total_s
    one, four, two = rows
    assert one.gap is two.gap is None
    assert four.gap == pytest.approx(four.decode_tps / (4 * 6 / 1.5) - 1)


def test_what_does_not_fit_is_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf")
    rows = serving(path, (2, 300), 8, 2, n_each=1)  # llama.cpp has at most 256 sequences
    assert rows[0].failure is None
    assert rows[1].failure is not None
    assert rows[1].failure.kind == "refused"
    assert (rows[1].decode_tps, rows[1].first_token.n) == (0.0, 0)


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf")
    with pytest.raises(UsageProblem):
        serving(path, ())
    with pytest.raises(UsageProblem):
        serving(path, (1,), n_gen=0)
    with pytest.raises(FileGone):
        serving(tmp_path / "none.gguf", (1,))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(DamagedFile):
        serving(tmp_path / "bad.gguf", (1,), options=PlanOptions())
