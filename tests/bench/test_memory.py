"""Measured memory of an open model, against loading without the file's map and the plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localllm.engine import build, native
from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.options import LoadOptions
from localllm.formats.gguf import read_model
from localllm.library.bench.conditions.memory import device_memory
from localllm.library.bench.record import DeviceMemory
from localllm.placement import Opened, PlanOptions, settled_plan, this_machine
from localllm.placement.opening import loaded_by, placed_by
from tests.support.tiny_models import tiny_gemma3, tiny_llama, tiny_mamba, tiny_qwen3moe

GPUS = [device for device in build.devices() if device.offloads]
ROUNDING_BYTES = 4 * 10486  # llama.cpp's log rounds each of the lines to 0.01 MiB

needs_gpu = pytest.mark.skipif(not GPUS, reason="this build of llama.cpp has no GPU device")


def measured(path: Path, mmap: bool = True, **options: Any) -> dict[str, DeviceMemory]:
    """By the exact plan, as a benchmark takes it."""
    plan = settled_plan(
        read_model(path), path, this_machine(), PlanOptions(n_ctx=512, **options), exact=True
    )
    with (
        native.capture() as log,
        Model.load(path, loaded_by(plan, LoadOptions(mmap=mmap))) as model,
        Context(model, plan.context) as context,
    ):
        placed = placed_by([line.text for line in log.lines])
        return {r.device: r for r in device_memory(Opened(model, context, plan, placed, ()))}


def check(path: Path, **options: Any) -> dict[str, DeviceMemory]:
    """With the file mapped, main memory counts what it holds of the file when it is read."""
    mapped, read = measured(path, True, **options), measured(path, False, **options)
    assert mapped.keys() == read.keys()
    for name, row in mapped.items():
        assert abs(row.weights_bytes - read[name].weights_bytes) <= ROUNDING_BYTES, (row, read)
        assert row.context_bytes == read[name].context_bytes
        assert row.measured_bytes == row.weights_bytes + row.context_bytes + row.compute_bytes
    return mapped


MODELS: dict[str, Callable[[Path], Path]] = {
    "llama": lambda p: tiny_llama(p, n_layer=4),
    "llama Q4_0, copied for the CPU": lambda p: tiny_llama(p, n_layer=4, dtype="Q4_0"),
    "gemma3, tied": lambda p: tiny_gemma3(p, dtype="Q4_0"),
    "mixture": lambda p: tiny_qwen3moe(p, dtype="Q4_0"),
    "recurrent": tiny_mamba,
}


@pytest.mark.parametrize("name", MODELS)
def test_on_the_cpu(name: str, tmp_path: Path) -> None:
    rows = check(MODELS[name](tmp_path / "m.gguf"), n_gpu_layers=0)
    cpu = rows["CPU"]
    assert list(rows) == ["CPU"]
    assert cpu.process_bytes is not None and cpu.process_bytes > 0
    assert abs(cpu.predicted_bytes - cpu.measured_bytes) <= ROUNDING_BYTES


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layers", [1, 2, -1])
def test_offloaded_in_part_or_whole(name: str, layers: int, tmp_path: Path) -> None:
    rows = check(MODELS[name](tmp_path / "m.gguf"), n_gpu_layers=layers)
    assert list(rows) == [GPUS[0].name, "CPU"]
    # Software Vulkan refuses one small tensor of Mamba's, which then stays in main memory.
    allowed = 80_000 if name == "recurrent" else ROUNDING_BYTES
    for row in rows.values():
        assert abs(row.predicted_bytes - row.measured_bytes) <= allowed, row


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("layers", [3, -1])
def test_wider_and_off_by_little(layers: int, tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf", n_layer=4, n_embd=1024, n_ff=2048, n_head=8)
    for row in measured(path, n_gpu_layers=layers).values():
        assert row.measured_bytes > 1 << 20
        assert row.error is not None and abs(row.error) < 0.005, row


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("kept", [{"n_cpu_moe": 1}, {"no_kv_offload": True}])
def test_what_is_kept_in_main_memory_by_choice(kept: dict[str, Any], tmp_path: Path) -> None:
    path = tiny_qwen3moe(tmp_path / "m.gguf", n_expert=8)
    whole, part = check(path, n_gpu_layers=-1), check(path, n_gpu_layers=-1, **kept)
    gpu = GPUS[0].name
    assert part[gpu].measured_bytes < whole[gpu].measured_bytes
    if "n_cpu_moe" in kept:  # 8 experts of 3 x 256 x 512 in F16, of one layer
        moved = whole[gpu].weights_bytes - part[gpu].weights_bytes
        assert abs(moved - 8 * 3 * 256 * 512 * 2) <= ROUNDING_BYTES
        assert part["CPU"].weights_bytes - whole["CPU"].weights_bytes == pytest.approx(
            moved, abs=ROUNDING_BYTES
        )
    else:
        assert part[gpu].context_bytes == 0
        assert part["CPU"].context_bytes == whole[gpu].context_bytes
    for row in part.values():
        assert row.error is not None and abs(row.error) < 0.02, row
