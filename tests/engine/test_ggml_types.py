"""Rows in ggml's types against the `gguf` package's own arithmetic, and against themselves."""

from __future__ import annotations

import numpy as np
import pytest

from localllm.engine.ggml_types import row_type, row_types
from localllm.errors import EngineError, UsageProblem

RNG = np.random.default_rng(5)
ROWS = RNG.standard_normal((4, 512)).astype(np.float32)
NAMES = sorted(row_types())
# ggml computes the tables of these for up to 20 seconds when they are first used.
SLOW = {"iq1_m", "iq1_s", "iq2_s", "iq2_xs"}
QUICK = [n for n in NAMES if n not in SLOW]


def test_the_types_that_hold_weights() -> None:
    assert {"f32", "f16", "bf16", "q4_0", "q8_0", "q4_k", "q6_k", "iq2_xxs", "tq1_0", "mxfp4"} <= {
        *NAMES
    }
    assert {"q8_1", "q8_k", "i32", "f64"}.isdisjoint(NAMES)
    assert {n for n in NAMES if row_type(n).needs_importance} >= {"iq1_s", "iq2_xxs"}


@pytest.mark.parametrize("name", QUICK)
def test_there_and_back(name: str) -> None:
    kind = row_type(name)
    weights = np.ones(512, np.float32)
    data = kind.quantize(ROWS, weights)
    assert data.shape == (4, 512 // kind.block_elements * kind.block_bytes)
    back = kind.dequantize(data, 512)
    bits = kind.block_bytes * 8 / kind.block_elements
    error = float(np.square(back - ROWS).sum() / np.square(ROWS).sum())
    # One and two bits lose most; the rest about four times less a bit; halves keep 8 to 11.
    assert error < (0.7 if bits < 2.3 else 1e-5 if bits >= 16 else 2.0 * 4.0 ** -(bits - 1))
    again = kind.quantize(back, weights)
    assert again.shape == data.shape


@pytest.mark.parametrize("name", [n for n in QUICK if n not in ("q1_0", "q2_0")])
def test_the_gguf_package_reads_the_same(name: str) -> None:
    import gguf

    kind = row_type(name)
    data = kind.quantize(ROWS, np.ones(512, np.float32))
    theirs = gguf.dequantize(data, gguf.GGMLQuantizationType(kind.id))
    np.testing.assert_allclose(kind.dequantize(data, 512), theirs.reshape(4, 512), rtol=1e-6)


def test_importance_moves_the_error_to_where_it_does_not_count() -> None:
    kind = row_type("q3_K")
    weights = np.where(np.arange(512) % 2 == 0, 100.0, 0.01).astype(np.float32)
    plain = kind.dequantize(kind.quantize(ROWS, np.ones(512, np.float32)), 512)
    weighed = kind.dequantize(kind.quantize(ROWS, weights), 512)

    def error(back: np.ndarray) -> float:
        return float((np.square(back - ROWS) * weights).sum())

    assert error(weighed) < 0.9 * error(plain)


def test_refusals() -> None:
    with pytest.raises(UsageProblem):
        row_type("q9_9")
    with pytest.raises(UsageProblem):
        row_type("q4_K").quantize(ROWS[:, :100])
    with pytest.raises(EngineError):
        row_type("iq2_xxs").quantize(ROWS)
    with pytest.raises(UsageProblem):
        row_type("q8_0").quantize(ROWS, np.ones(32, np.float32))
    with pytest.raises(UsageProblem):
        row_type("q8_0").dequantize(np.zeros((1, 7), np.uint8), 32)
