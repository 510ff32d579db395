"""Placement on a real GPU backend: what was predicted for each device, and what it then took.

Runs wherever this build of llama.cpp has a GPU; `.ci/vulkan` gives any machine one that
computes in software. Its device reports 2 GiB and takes tensors of up to 128 MiB, so the shapes
here are real in width and have few layers and a small vocabulary.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from localllm.engine import build
from localllm.errors import GpuRequired
from localllm.formats.gguf import read_header, read_model
from localllm.placement import PlanOptions, machine_for, open_model, plan_for, this_machine
from tests.placement.conftest import Written, this_llama
from tests.support import native_truth

ROUNDING_BYTES = 2 * 10486  # llama.cpp's log rounds each buffer to 0.01 MiB
GPUS = [device for device in build.devices() if device.offloads]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not GPUS, reason="this build of llama.cpp has no GPU device"),
]

WHOLE = {"n_layer": 8, "n_vocab": 8192}  # 1 GiB
LARGE = {"n_layer": 24, "n_vocab": 8192}  # 3 GiB


def difference(path: Path, n_ctx: int) -> dict[str, Any]:
    """Predicted minus really allocated bytes of each device, and of the host."""
    plan = plan_for(read_header(path), this_machine(), PlanOptions(n_ctx=n_ctx), this_llama(path))
    real = native_truth.measure(
        path, real=True, gpus=True, n_gpu_layers=plan.n_gpu_layers, tensor_split=plan.tensor_split,
        n_ctx=n_ctx, swa_full=False,
    )  # fmt: skip
    names = [device.name for device in plan.devices]
    found = {d.name: d.total_bytes - real.buffers[d.name].total for d in plan.devices}
    host = sum(b.total for name, b in real.buffers.items() if name not in names)
    found["host"] = plan.host.total_bytes - host - real.output_bytes
    return {"verdict": plan.verdict, "offloaded": plan.n_offloaded, "difference": found}


needs_truth = pytest.mark.skipif(
    not native_truth.available(), reason="llama_get_memory_breakdown cannot be called here"
)


@needs_truth
@pytest.mark.parametrize("name", ["llama3.1-8b", "qwen3-8b", "gemma2-9b", "mamba2-7b"])
def test_each_device_takes_what_was_predicted(name: str, written: Written):
    found = difference(written(name, **WHOLE), 4096)
    assert found["offloaded"] == 9
    assert all(abs(d) <= ROUNDING_BYTES for d in found["difference"].values()), found


@needs_truth
def test_a_part_takes_what_was_predicted(written: Written):
    if GPUS[0].memory_free_bytes > 3 << 30:
        pytest.skip("this GPU holds all of it")
    found = difference(written("llama3.1-8b", **LARGE), 8192)
    assert 0 < found["offloaded"] < 25
    assert all(abs(d) <= ROUNDING_BYTES for d in found["difference"].values()), found


@needs_truth
@pytest.mark.parametrize(("layers", "n_ctx"), [(20, 4096), (24, 8192)])
def test_several_devices_take_what_was_predicted(layers: int, n_ctx: int, written: Written):
    """Twice the same software device; whole models are then pipelined over both."""
    if not GPUS[0].name.startswith("Vulkan"):
        pytest.skip("only a Vulkan device can be listed twice")
    path = written("gemma2-9b", n_layer=layers, n_vocab=8192)
    code = (
        "import json; from pathlib import Path\n"
        "from tests.placement.test_gpu import difference\n"
        f"print(json.dumps(difference(Path({str(path)!r}), {n_ctx})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300,
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | {"GGML_VK_VISIBLE_DEVICES": "0,0"},
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert set(found["difference"]) == {"Vulkan0", "Vulkan1", "host"}
    assert all(abs(d) <= ROUNDING_BYTES for d in found["difference"].values()), found


def test_everything_is_offloaded_by_default_and_said(tiny_gguf: Path):
    with open_model(tiny_gguf, PlanOptions(n_ctx=256), require_gpu=True) as opened:
        assert opened.plan.verdict == "all"
        assert opened.placed.n_offloaded == opened.placed.n_layers == 3
        assert opened.placed.devices[0][0] == GPUS[0].name
        assert opened.advice == ()


def test_no_layer_on_the_gpu_means_none_of_its_memory(tiny_gguf: Path):
    options = PlanOptions(n_ctx=256, n_gpu_layers=0)
    with open_model(tiny_gguf, options) as opened:
        assert opened.placed.devices == (("CPU", 3),)
        assert opened.plan.gpu_bytes == 0
        assert [a.kind for a in opened.advice] == ["partly_on_cpu"]
    with pytest.raises(GpuRequired, match="0 of 3 layers"):
        open_model(tiny_gguf, options, require_gpu=True)


def test_part_of_a_model_is_not_quietly_run_on_the_cpu(written: Written):
    path = written("llama3.1-8b", **LARGE)
    if GPUS[0].memory_free_bytes > 3 << 30:
        pytest.skip("this GPU holds all of it")
    with pytest.raises(GpuRequired, match=r"of 25 layers") as caught:
        open_model(path, PlanOptions(n_ctx=8192), require_gpu=True)
    assert "\n" not in caught.value.message


def test_the_child_process_sees_the_same_devices(written: Written):
    path = written("qwen3-8b", **WHOLE)
    model = read_model(path)
    with machine_for(model) as machine:  # from the header alone, as before a download
        plan = plan_for(model, this_machine(), PlanOptions(n_ctx=2048), machine)
    assert plan.basis == "llama.cpp"
    assert plan.devices[0].compute_bytes > 0
