"""The layer split against llama.cpp's own lines of C, compiled and run."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.hardware.split_rule import assign

# The arithmetic of llama_model::load_tensors, in C floats: cumulative normalized splits, then
# the first split above the slot's position (std::upper_bound).
SOURCE = """
int layer_gpu(int il, int n_layer, int n_gpu_layers, int n_devices, const float *given) {
    float splits[64], split_sum = 0.0f;
    for (int i = 0; i < n_devices; ++i) { split_sum += given[i]; splits[i] = split_sum; }
    for (int i = 0; i < n_devices; ++i) splits[i] /= split_sum;
    int start = n_layer + 1 - n_gpu_layers;
    if (start < 0) start = 0;
    int act = n_gpu_layers < n_layer + 1 ? n_gpu_layers : n_layer + 1;
    if (il < start || il - start >= act) return -1;
    float position = (float) (il - start) / act;
    int gpu = 0;
    while (gpu < n_devices && !(position < splits[gpu])) gpu++;
    return gpu;
}
"""


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform == "win32":
        pytest.skip("no C compiler to build llama.cpp's rule with")
    folder = tmp_path_factory.mktemp("rule")
    (folder / "rule.c").write_text(SOURCE)
    library = folder / "rule.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", folder / "rule.c", "-o", library], check=True
    )
    return ctypes.CDLL(str(library))


def by_llama_cpp(
    native: ctypes.CDLL, n_layer: int, n_gpu_layers: int, splits: list[float]
) -> tuple[int | None, ...]:
    given_floats = (ctypes.c_float * len(splits))(*splits)
    devices = (
        native.layer_gpu(il, n_layer, n_gpu_layers, len(splits), given_floats)
        for il in range(n_layer + 1)
    )
    return tuple(None if d < 0 else d for d in devices)


shares = st.one_of(
    st.integers(0, 40).map(float), st.floats(0.0, 100.0, width=32), st.integers(0, 2**37).map(float)
)


@settings(max_examples=400)
@given(
    n_layer=st.integers(1, 130),
    n_gpu_layers=st.integers(1, 140),
    splits=st.lists(shares, min_size=1, max_size=8).filter(any),
)
def test_the_same_device_for_every_slot(
    native: ctypes.CDLL, n_layer: int, n_gpu_layers: int, splits: list[float]
) -> None:
    expected = by_llama_cpp(native, n_layer, n_gpu_layers, splits)
    assert assign(n_layer, n_gpu_layers, splits, [0] * len(splits)) == expected


@pytest.mark.parametrize(
    ("n_layer", "splits"),
    [(80, [0.3, 0.3, 0.3]), (40, [1.1, 3.0]), (60, [2.0, 1.1, 3.0]), (80, [3.0, 2.0, 11.0, 0.2])],
)
def test_where_single_and_double_precision_differ(
    native: ctypes.CDLL, n_layer: int, splits: list[float]
) -> None:
    expected = by_llama_cpp(native, n_layer, n_layer + 1, splits)
    assert assign(n_layer, n_layer + 1, splits, [0] * len(splits)) == expected


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any))
def test_whole_slots_as_split_say_exactly_where_each_goes(counts: list[int]) -> None:
    n_slots = sum(counts)
    placed = assign(n_slots - 1, n_slots, [float(c) for c in counts], [0] * len(counts))
    assert [placed.count(d) for d in range(len(counts))] == counts
    devices = [d for d in placed if d is not None]
    assert devices == sorted(devices)


def test_the_last_layers_are_offloaded_and_the_output_is_one_more() -> None:
    one = [24]
    assert assign(4, 0, None, one) == (None,) * 5
    assert assign(4, 1, None, one) == (None, None, None, None, 0)
    assert assign(4, 3, None, one) == (None, None, 0, 0, 0)
    assert assign(4, 5, None, one) == (0, 0, 0, 0, 0)
    assert assign(4, 99, None, one) == (0, 0, 0, 0, 0)
    assert assign(4, -1, None, one) == (0, 0, 0, 0, 0)
    assert assign(4, 99, None, []) == (None,) * 5


def test_the_default_goes_by_free_memory() -> None:
    placed = assign(31, 32, None, [24 << 30, 8 << 30])
    assert (placed.count(0), placed.count(1)) == (24, 8)
    assert assign(31, 32, [0.0, 0.0], [24 << 30, 8 << 30]) == placed


def test_a_split_for_fewer_devices_leaves_the_rest_empty(tmp_path: Path) -> None:
    assert assign(3, 4, [1.0], [1, 1]) == (0, 0, 0, 0)
