"""Predicted memory against what llama.cpp itself counts, at real shapes.

The truth is `llama_get_memory_breakdown`: ggml's allocator summing the real tensors, which
shares nothing with the prediction (see `native_truth`).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from localllm.engine.options import KV_TYPES
from localllm.formats.gguf import read_header
from localllm.placement import PlanOptions, model_shape, plan_for
from localllm.placement.kv import CacheOptions, model_cache
from localllm.placement.weights import model_weights
from tests.placement.conftest import ALL_SHAPES, Written, cpu_only, this_llama
from tests.support import native_truth

pytestmark = pytest.mark.skipif(
    not native_truth.available(), reason="llama_get_memory_breakdown cannot be called here"
)

# llama.cpp's log rounds each buffer to 0.01 MiB; two buffers are read from it.
ROUNDING_BYTES = 2 * 10486

CONTEXTS: list[dict[str, Any]] = [
    {"n_ctx": 8192},
    {"n_ctx": 2500, "n_parallel": 4, "n_ubatch": 128, "type_k": "q8_0", "type_v": "q8_0"},
]


def fewer(name: str, context: dict[str, Any]) -> dict[str, Any]:
    """Recurrent states are allocated even in a dry run: fewer layers for several sequences."""
    states = {"mamba2-7b", "falcon-h1-7b", "qwen3next-80b", "granite4-h-tiny"}
    return {"n_layer": 8} if name in states and "n_parallel" in context else {}


def as_llama(options: PlanOptions, n_ctx: int) -> dict[str, Any]:
    """The same options for the independent measurement."""
    return {
        "n_ctx": n_ctx * options.n_parallel,
        "n_ubatch": options.n_ubatch,
        "n_seq_max": options.n_parallel,
        "kv_unified": options.kv_unified,
        "swa_full": options.swa_full,
        "type_k": KV_TYPES[options.type_k],
        "type_v": KV_TYPES[options.type_v],
    }


@pytest.mark.parametrize("context", CONTEXTS, ids=["8192", "4x2500-q8_0"])
@pytest.mark.parametrize("name", ALL_SHAPES)
def test_total_is_what_llama_cpp_counts(name: str, context: dict[str, Any], written: Written):
    path, options = written(name, **fewer(name, context)), PlanOptions(**context)
    plan = plan_for(read_header(path), cpu_only(1 << 40), options, this_llama(path))
    truth = native_truth.measure(path, **as_llama(options, plan.n_ctx))
    assert plan.basis == "llama.cpp"
    assert plan.total_bytes == pytest.approx(truth.total, rel=0.01)  # what is promised
    assert abs(plan.total_bytes - truth.total) <= ROUNDING_BYTES  # what is kept


@pytest.mark.parametrize("name", ALL_SHAPES)
def test_weights_and_cache_to_the_byte(name: str, written: Written):
    path = written(name, **fewer(name, {"n_parallel": 3}))
    header = read_header(path)
    shape = model_shape(header)
    weights = model_weights(header, shape)
    cases: list[dict[str, Any]] = [
        {"n_ctx": 32768},
        {"n_ctx": 40000, "n_seq_max": 3, "kv_unified": True, "n_ubatch": 1024},
    ]
    for case in cases:
        truth = native_truth.measure(path, swa_full=False, **case)
        cache = model_cache(shape, CacheOptions(**case))
        held = sum(b.context for b in truth.buffers.values())
        assert cache.total_kv_bytes + cache.total_state_bytes == held, case
        model = sum(b.model for b in truth.buffers.values())
        once = weights.input_bytes + weights.all_layers_bytes + weights.output_bytes
        assert once + weights.shared_bytes == model


@pytest.mark.parametrize("name", ALL_SHAPES)
def test_layers_are_placed_and_windowed_as_llama_cpp_says(name: str, written: Written):
    path = written(name)
    shape = model_shape(read_header(path))
    log = "\n".join(native_truth.measure(path, n_ctx=512).log)
    placed = re.findall(r"load_tensors: layer +(\d+) assigned to device \S+, is_swa = (\d)", log)
    windows = [flag == "1" for _, flag in placed][: shape.n_layer_all]
    assert [layer.window for layer in shape.layers] == windows
    if cached := re.findall(r"llama_kv_cache: layer +(\d+): dev = ", log):
        assert {i for i, layer in enumerate(shape.layers) if layer.caches} == set(map(int, cached))
    if states := re.findall(r"llama_memory_recurrent, layer +(\d+): dev = ", log):
        holding = {i for i, layer in enumerate(shape.layers) if layer.state or layer.conv_state}
        assert holding == set(map(int, states))


@pytest.mark.parametrize("mix", ["Q4_0", "Q4_K_M", "F16"])
def test_a_tied_embedding_that_the_cpu_repacks_is_there_twice(
    mix: str, written: Written, monkeypatch: pytest.MonkeyPatch
):
    from tests.support import real_shapes

    monkeypatch.setitem(real_shapes.MIXES, "tied", ("Q4_K", "Q6_K", "Q4_K", "Q4_K"))
    path = written("gemma3-4b", mix="tied" if mix == "Q4_K_M" else mix)
    plan = plan_for(read_header(path), cpu_only(), PlanOptions(), this_llama(path))
    truth = native_truth.measure(path, n_ctx=8192, swa_full=False).buffers
    copied = truth.get("CPU_REPACK", native_truth.Bytes()).model
    assert plan.host.repacked_bytes == copied
    assert plan.host.weights_bytes == sum(b.model for b in truth.values())


# --- really allocated ----------------------------------------------------------------------

# Real widths, few layers: small enough to load without mmap, in a fraction of a second.
SMALL: dict[str, dict[str, Any]] = {
    "llama3.1-8b": {"n_layer": 1, "n_vocab": 4096},
    "qwen2-7b": {"n_layer": 1, "n_vocab": 4096},
    "qwen3moe-30b": {"n_layer": 1, "n_vocab": 4096},
    "gemma2-9b": {"n_layer": 2, "n_vocab": 4096},
    "gemma3-4b": {"n_layer": 6, "n_vocab": 4096},
    "phi3.5-mini": {"n_layer": 1, "n_vocab": 4096, "mix": "Q8_0"},
    "mamba-2.8b": {"n_layer": 2, "n_vocab": 4096},
    "lfm2-1.2b": {"n_layer": 4, "n_vocab": 4096},
    "falcon-h1-7b": {"n_layer": 1, "n_vocab": 4096},
    "rwkv7-2.9b": {"n_layer": 1, "n_vocab": 4096},
}


@pytest.mark.parametrize("name", SMALL)
def test_buffers_that_were_really_allocated(name: str, written: Written):
    path = written(name, **SMALL[name])
    options = PlanOptions(n_ctx=2048)
    plan = plan_for(read_header(path), cpu_only(), options, this_llama(path))
    truth = native_truth.measure(path, real=True, **as_llama(options, 2048))
    assert abs(plan.total_bytes - truth.total) <= ROUNDING_BYTES


_GROWTH = """
import json, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.support import native_truth

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * {page}

native_truth.measure(Path({path!r}), n_ctx=512)     # libraries and dry run first
before = resident()
from localllm.engine import native
llama = native.lib()
params = llama.llama_model_default_params()
params.load_mode, params.n_gpu_layers = 0, 0
model = llama.llama_model_load_from_file({path!r}.encode(), params)
options = llama.llama_context_default_params()
options.n_ctx, options.swa_full = 65536, False
context = llama.llama_init_from_model(model, options)
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_grows_by_weights_and_cache(written: Written):
    """A check from outside: resident memory. Compute buffers are not touched until used."""
    path = written("llama3.1-8b", n_layer=1, n_vocab=4096)
    options = PlanOptions(n_ctx=65536)
    plan = plan_for(read_header(path), cpu_only(), options, this_llama(path))
    root = str(Path(__file__).resolve().parents[2])
    code = _GROWTH.format(root=root, path=str(path), page=4096)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    grown = int(done.stdout.split()[-1])
    touched = plan.weights_bytes + plan.kv_bytes
    assert 0.99 * touched <= grown <= 1.05 * plan.total_bytes
