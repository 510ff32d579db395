"""Errors of types, against the whole tensor computed by the plain formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from localllm.engine.ggml_types import row_type
from localllm.quantize.search.sensitivity import damages
from localllm.quantize.search.weights import Weights

RNG = np.random.default_rng(11)
W = RNG.standard_normal((512, 256)).astype(np.float32)
EXPERTS = RNG.standard_normal((3, 64, 256)).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "w.gguf"
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for name, tensor in (("w", W), ("e", EXPERTS), ("odd", np.ascontiguousarray(W[:, :96]))):
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def exact(rows: np.ndarray, kind: str, columns: np.ndarray) -> float:
    row = row_type(kind)
    gap = row.dequantize(row.quantize(rows, columns), rows.shape[1]) - rows
    return float((gap**2 * columns).sum() / (rows**2 * columns).sum())


def test_a_sample_tells_of_the_whole(model: Path) -> None:
    columns = RNG.lognormal(0, 2, 256).astype(np.float32)
    found = damages(
        Weights(model), ["w"], ["q2_K", "q4_K", "q6_K", "q8_0"], {"w": columns},
        n_threads=2, sample=256 * 128,
    )["w"]  # fmt: skip
    assert [d.type for d in found] == ["q2_k", "q4_k", "q6_k", "q8_0"]
    for damage in found:
        assert damage.error == pytest.approx(exact(W, damage.type, columns), rel=0.05)
        kind = row_type(damage.type)
        assert damage.size_bytes == 512 * 256 * kind.block_bytes // kind.block_elements


def test_experts_have_their_own_importance(model: Path) -> None:
    columns = RNG.lognormal(0, 2, (3, 256)).astype(np.float32)
    columns[1] = 0.0  # never reached: counts evenly
    (found,) = damages(Weights(model), ["e"], ["q3_K"], {"e": columns.ravel()}, n_threads=1)["e"]
    even = [columns[0], np.ones(256, np.float32), columns[2]]
    kind = row_type("q3_K")
    lost = energy = 0.0
    for expert, weight in zip(EXPERTS, even, strict=True):
        gap = kind.dequantize(kind.quantize(expert, weight), 256) - expert
        lost += float((gap**2 * weight).sum())
        energy += float((expert**2 * weight).sum())
    assert found.error == pytest.approx(lost / energy, rel=1e-4)


def test_what_a_tensor_cannot_have_is_left_out(model: Path) -> None:
    found = damages(Weights(model), ["odd", "w"], ["q4_K", "iq2_xxs", "q8_0"], {}, n_threads=1)
    assert [d.type for d in found["odd"]] == ["q8_0"]  # rows of 96
    assert [d.type for d in found["w"]] == ["q4_k", "q8_0"]  # no importance


def test_weights_are_what_was_written(model: Path) -> None:
    weights = Weights(model)
    assert weights.shape("e") == (192, 256)
    np.testing.assert_array_equal(weights.rows("e", np.array([65, 3])),
                                  [EXPERTS[1, 1], EXPERTS[0, 3]])  # fmt: skip
