"""Where a run computes: choosing it, nothing left on the CPU, and what a GPU changes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")
pytest.importorskip("transformers", reason="the extra `finetune` is not installed")

import torch

from localllm.errors import DoesNotFit, GpuRequired, UsageProblem
from localllm.finetune.building import held_in
from localllm.finetune.model import load_causal
from localllm.finetune.plan import Base, Layout, lay_out, memory_need, require_fit
from localllm.finetune.recipe import Recipe
from localllm.finetune.training import device as devices
from localllm.finetune.training.adapters import AdapterOptions, attach
from localllm.finetune.training.batches import pack
from localllm.finetune.training.forward import scorer
from localllm.finetune.training.precision import PrecisionTrial
from localllm.finetune.training.scaling import LossScale
from localllm.finetune.training.trainer import Trainer
from tests.conftest import Done
from tests.finetune.model.conftest import Make, made  # noqa: F401
from tests.finetune.tiny_torch import rows

GIB = 1 << 30
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason=f"torch {torch.__version__} sees no CUDA device"
)

# --- nothing is left on the CPU -----------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run leaves on a device that is not the CPU; see `elsewhere_worker`."""
    from tests.finetune.model.families import TINY, gguf_of, hf_model

    folder = tmp_path_factory.mktemp("elsewhere")
    models = [
        str(gguf_of(hf_model(TINY[i], seed=i), TINY[i], folder / f"{i}.gguf", name))
        for i, name in ((1, "Q8_0"), (9, "Q4_0"))
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.finetune.elsewhere_worker", str(folder), *models],
        capture_output=True, text=True, timeout=300, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "found.json").read_text("utf-8"))
    return found


CASES = (
    "lora on numbers", "lora on stored bytes", "lora on stored bytes, tied, layers computed twice",
    "full, tied", "dora on stored bytes", "preferences",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_all_of_a_run_is_on_the_device_and_what_is_kept_is_not(elsewhere: Any, case: str) -> None:
    found, there = elsewhere[case], ["elsewhere:0"]
    assert found["steps"] == 1
    assert found["parameters"] == found["buffers"] == found["moments"] == there
    assert found["bytes"] == ([] if case.startswith(("full", "lora on numbers")) else there)
    assert found["checkpoint"] == found["optimizer"] == ["cpu"]
    assert found["written"] == ([] if case.startswith("full") else ["cpu"])


def test_tensors_of_two_devices_would_have_been_seen(elsewhere: Any) -> None:
    assert "at least two devices, cpu and elsewhere:0" in elsewhere["mixed"]
    assert set(elsewhere) == {*CASES, "mixed"}


# --- choosing -----------------------------------------------------------------------------


def test_the_cpu_is_what_a_machine_without_a_gpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    found = devices.choose("auto", 8 * GIB)
    assert (found.name, found.free_bytes, found.shares_host) == ("cpu", 8 * GIB, True)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """torch as it answers on a machine with two GPUs; the one that was made current."""
    current: list[int] = []
    free = {0: (10 * GIB, 16 * GIB), 1: (3 * GIB, 4 * GIB)}
    for name, value in {
        "is_available": lambda: True, "device_count": lambda: 2, "set_device": current.append,
        "mem_get_info": free.get, "memory_reserved": lambda n: GIB,
        "memory_allocated": lambda n: GIB // 2, "get_device_name": lambda n: f"GPU {n}",
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    return current


def test_auto_takes_the_gpu_and_what_is_free_of_it(two_gpus: list[int]) -> None:
    found = devices.choose("auto", 8 * GIB)
    assert (found.name, found.description, found.shares_host) == ("cuda:0", "GPU 0", False)
    # what torch holds unused is this process's own; a quarter GiB is left alone
    assert found.free_bytes == 10 * GIB + GIB // 2 - GIB // 4
    assert devices.choose("cuda:1", 8 * GIB).name == "cuda:1"
    assert devices.choose("cpu", 8 * GIB).name == "cpu"
    assert two_gpus == [0, 1]
    with pytest.raises(GpuRequired, match="no cuda:2: torch sees 2 GPUs"):
        devices.choose("cuda:2", 8 * GIB)


def launch(monkeypatch: pytest.MonkeyPatch, rank: int, size: int) -> None:
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", size),
                        ("LOCAL_WORLD_SIZE", size)):  # fmt: skip
        monkeypatch.setenv(name, str(value))


def test_each_process_has_the_gpu_of_its_number(
    two_gpus: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch(monkeypatch, 1, 2)
    assert devices.choose("auto", 8 * GIB).name == devices.choose("cuda", 8 * GIB).name == "cuda:1"
    with pytest.raises(UsageProblem, match="all 2 processes on one GPU"):
        devices.choose("cuda:0", 8 * GIB)
    launch(monkeypatch, 2, 3)  # no GPU is left for the third
    assert devices.choose("auto", 9 * GIB).free_bytes == 3 * GIB
    with pytest.raises(GpuRequired, match="no cuda:2"):
        devices.choose("cuda", 8 * GIB)


def test_apples_gpu_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 * GIB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: GIB)
    found = devices.choose("auto", 8 * GIB)
    assert (found.name, found.free_bytes, found.shares_host) == ("mps", 8 * GIB, True)
    assert devices.choose("mps", 20 * GIB).free_bytes == 11 * GIB
    launch(monkeypatch, 0, 2)
    assert devices.choose("auto", 8 * GIB).name == "cpu"
    with pytest.raises(UsageProblem):
        devices.choose("mps", 8 * GIB)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a CUDA device")
def test_a_named_gpu_that_is_not_there_is_exit_4_before_the_data_is_read(
    tune: Callable[..., Done], tmp_path: Path
) -> None:
    done = tune("--device", "cuda", "--name", "t:x", source=tmp_path / "no such file.jsonl")
    assert done.exit_code == 4, done
    error = done.json["error"]
    assert error["kind"] == "gpu_required"
    assert "--device cuda" in error["message"]
    assert "\n" not in error["message"]
    assert error["hint"] == "--device cpu"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--device", "gpu"), "none of auto, cpu, cuda, cuda:N, mps"),
        (("--device", "cuda:"), "none of auto"),
        (("--device", "cpu", "--precision", "f16"), "f16 is for GPUs"),
        (("--precision", "f16"), "f16 is for GPUs"),
        (("--base-weights", "nf4", "--shard", "on"), "cannot be sharded"),
        (("--base-weights", "nf4", "--method", "full"), "nf4 is of a base that stays"),
    ],
)
def test_what_does_not_go_together_is_exit_2(
    tune: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, options: Any, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = tune(*options, "--name", "t:x")
    assert done.exit_code == 2, done
    assert said in done.json["error"]["message"]


def test_a_gpu_that_this_torch_cannot_use_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    from localllm.finetune import where

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(where, "_idle_gpu", lambda: "NVIDIA A10")
    said: list[str] = []
    assert where.find_device(Recipe(), said.append).name == "cpu"
    assert len(said) == 1
    assert said[0].startswith(f"NVIDIA A10 is not used: torch {torch.__version__}")
    where.find_device(Recipe(device="cpu"), said.append)  # that was asked for
    assert len(said) == 1


def test_the_device_is_no_part_of_what_is_learned() -> None:
    """A run is gone on with, and known again, on another device."""
    assert Recipe(device="cuda").lineage() == Recipe(device="cpu").lineage()


def test_a_tuning_says_where_it_was_computed(tune: Callable[..., Done]) -> None:
    done = tune("--device", "cpu", "--steps", 1, "--name", "t:cpu")
    assert done.exit_code == 0, done
    assert done.data["learned"]["device"] == "cpu"


def test_nf4_on_the_cpu_from_the_command_line(tune: Callable[..., Done]) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra `nf4` is not installed")
    done = tune("--base-weights", "nf4", "--steps", 2, "--name", "t:nf4")
    assert done.exit_code == 0, done
    assert done.data["learned"]["base_weights"] == "nf4"


# --- the layout on a GPU ------------------------------------------------------------------


def base(n_layer: int = 32) -> Base:
    """About a Llama of 8 billion numbers in Q4_K: 4096 wide, 14336 in the middle."""
    sizes: Any = SimpleNamespace(
        n_layer=n_layer, n_embd=4096, n_ff=14336,
        named=lambda: {"embd": 4096, "q": 4096, "kv": 1024, "ff": 14336},
    )  # fmt: skip
    inside, outside = n_layer * 218_000_000, 2 * 128256 * 4096
    return Base(
        sizes, {"q_proj": (4096, 4096)}, int(0.5625 * (inside + outside)), inside + outside,
        outside, is_quantized=True, kept_bytes=int(0.5625 * (inside + outside)),
        kept_outside_bytes=int(0.5625 * outside),
    )  # fmt: skip


def on_cuda(free: int, recipe: Recipe = Recipe(), number_bytes: int = 2) -> Layout:  # noqa: B008
    return lay_out(base(), recipe, 512, free, 1, "cuda:0", number_bytes)


def test_numbers_where_they_fit_else_the_files_bytes() -> None:
    """A GPU multiplies faster than it can spread bytes; the CPU takes the bytes, as it did."""
    assert on_cuda(80 * GIB).frozen == "dense"
    assert on_cuda(80 * GIB).pack_tokens > 1024
    assert on_cuda(400 * GIB).pack_tokens == 8192
    assert on_cuda(16 * GIB).frozen == "quantized"
    assert on_cuda(80 * GIB, Recipe(base_weights="quantized")).frozen == "quantized"
    assert on_cuda(80 * GIB, Recipe(base_weights="nf4")).frozen == "nf4"
    assert on_cuda(80 * GIB, Recipe(pack_tokens=700)).pack_tokens == 700
    assert lay_out(base(), Recipe(), 512, 80 * GIB) == Layout("quantized", 1024, False)
    smaller = on_cuda(14 * GIB)
    assert smaller.pack_tokens < 8192 or smaller.checkpointing


def test_what_a_gpu_needs() -> None:
    one = base()
    dense = memory_need(one, Recipe(), Layout("dense", 1024, False, 1, "cuda:0", 2))
    inside = one.n_params - one.n_outside
    assert dense.weights == 2 * inside + 4 * one.n_outside
    assert dense.program == 0  # the interpreter lies elsewhere
    nf4 = memory_need(one, Recipe(), Layout("nf4", 1024, False, 1, "cuda:0", 2))
    # 4 bits a number, 8 for a scale of 64 numbers, 32 for one of 256 scales
    bits = 4 + 8 / 64 + 32 / (64 * 256)
    assert nf4.weights == pytest.approx(inside * bits / 8 + one.kept_outside_bytes, rel=0.08)
    layout = on_cuda(2 * GIB)
    with pytest.raises(DoesNotFit):
        require_fit("it", one, Recipe(), layout, 2 * GIB)


# --- precision ----------------------------------------------------------------------------


def test_f16_only_where_nothing_else_is_fast() -> None:
    assert PrecisionTrial(10, 40, 41).best == "bf16"  # as on an A100
    assert PrecisionTrial(8, 5, 60).best == "f16"  # a T4: bfloat16 is emulated
    assert PrecisionTrial(10, 9, 11).best == "f32"
    assert PrecisionTrial(10, 20).best == "bf16"  # a CPU


def test_frozen_matrices_are_held_in_what_they_are_multiplied_in(made: Make) -> None:  # noqa: F811
    """Half the memory, and the very losses and gradients that autocast gives."""
    assert held_in(Recipe(), "bf16", "cuda:0") == "bfloat16"
    for recipe, precision, device in (
        (Recipe(), "bf16", "cpu"), (Recipe(), "f32", "cuda:0"),
        (Recipe(method="dora"), "bf16", "cuda:0"), (Recipe(method="full"), "bf16", "cuda:0"),
    ):  # fmt: skip
        assert held_in(recipe, precision, device) is None
    batch = pack([[one] for one in rows(4)], range(4))
    found = []
    for narrow in (None, "bfloat16"):
        loaded = load_causal(made(1).path, matrices=narrow)
        layer = loaded.module.get_submodule("model.layers.0.mlp.up_proj")
        assert layer.weight.dtype == (torch.float32 if narrow is None else torch.bfloat16)
        assert loaded.module.get_input_embeddings().weight.dtype == torch.float32
        adapters = attach(loaded.module, AdapterOptions(rank=2), 0)
        losses = scorer(loaded.module, torch.bfloat16).losses(batch)
        losses.sum().backward()
        found.append((losses.detach(), [one.b.grad for one in adapters.layers.values()]))
    assert torch.equal(found[0][0], found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.equal(one, other)


def test_a_scale_is_halved_on_overflow_and_grows_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from localllm.finetune.training import scaling

    monkeypatch.setattr(scaling, "_GROWS_AFTER", 3)
    scale = LossScale.of("f16")
    begin = scale.value
    assert scale.shrink()
    assert scale.value == begin / 2
    kept = scale.state()
    for _ in range(3):
        scale.went_well()
    assert scale.value == begin
    again = LossScale.of("f16")
    again.load(kept)
    assert (again.value, again.good) == (begin / 2, 0)
    plain = LossScale.of("bf16")
    plain.load(kept)
    assert not plain.is_on
    assert not plain.shrink()


def test_a_step_that_overflowed_is_computed_again(tmp_path: Path) -> None:
    """Gradients of inf cost a step's time and not the step: the run learns what it learns
    without."""
    from localllm.finetune.training.objectives import Likelihood
    from localllm.finetune.training.records import Unwatched
    from localllm.finetune.training.task import Learned, Task
    from tests.finetune.tiny_torch import tiny

    recipe = Recipe(objective="sft", steps=3, batch_size=4, lr=1e-2, keep="last")
    items = [[one] for one in rows(8)]
    place = SimpleNamespace(checkpoint=tmp_path / "c", best=tmp_path / "b")
    found = []
    for precision, most in (("f32", None), ("f16", 2.0**14)):
        module = tiny("llama")
        adapters = attach(module, AdapterOptions(rank=2), 0)
        named = {n: p for n, p in module.named_parameters() if p.requires_grad}
        task = Task(module, scorer(module), Learned(adapters, named), Likelihood(), items, [], 64,
                    "0", precision)  # fmt: skip
        trainer = Trainer(task, recipe, place, Unwatched())
        if most is not None:  # as float16 does it with large numbers
            for parameter in named.values():
                parameter.register_hook(
                    lambda grad: grad * torch.inf if trainer.scale.value > most else grad  # noqa: B023
                )
        trained = trainer.run(resume=False)
        found.append([one.loss for one in trained.history.steps])
        assert trainer.scale.value == (1.0 if most is None else most)
    assert found[1] == pytest.approx(found[0], rel=1e-5)


# --- on a real device ---------------------------------------------------------------------


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("weights", ["dense", "quantized"])
@pytest.mark.parametrize("precision", ["f32", "bf16", "f16"])
def test_a_gpu_learns_what_the_cpu_learns(
    tune: Callable[..., Done], weights: str, precision: str
) -> None:
    options = ("--steps", 4, "--lr", 3e-3, "--base-weights", weights)
    there = tune(*options, "--device", "cuda", "--precision", precision, "--name", "t:there")
    here = tune(*options, "--device", "cpu", "--precision", "f32", "--name", "t:here")
    assert there.exit_code == here.exit_code == 0, (there, here)
    assert there.data["learned"]["device"] == "cuda:0"
    for (_, one), (_, other) in zip(there.data["losses"], here.data["losses"], strict=True):
        assert one == pytest.approx(other, rel=1e-4 if precision == "f32" else 0.02)


@pytest.mark.gpu
@needs_cuda
def test_on_a_gpu_memory_is_the_gpus(tune: Callable[..., Done]) -> None:
    done = tune("--steps", 2, "--device", "cuda", "--name", "t:memory")
    assert 0 < done.data["learned"]["peak_bytes"] < 2 * GIB
    dry = tune("--dry-run", "--steps", 2, "--device", "cuda", "--name", "t:dry")
    assert dry.data["layout"]["device"] == "cuda:0"
    assert replace(Layout(**dry.data["layout"]), device="cpu").is_cpu


@pytest.mark.gpu
@needs_cuda
def test_dequantizers_on_a_gpu() -> None:
    from localllm.finetune.model.dequantize import dequantize
    from localllm.finetune.model.torch_types import TYPES
    from tests.finetune.model.test_dequantize import WIDTH, stored

    for name in sorted(TYPES):
        one = stored(name)
        found = dequantize(torch.from_numpy(one.data).cuda(), one.type.name, WIDTH).cpu()
        torch.testing.assert_close(found, torch.from_numpy(one.numbers()), rtol=1e-5, atol=1e-6)
