"""Opening a model by its plan: what was done, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from localllm.engine.options import ContextOptions, LoadOptions
from localllm.errors import DamagedFile, DoesNotFit, ExitCode, FileGone, GpuRequired
from localllm.hardware import detect
from localllm.hardware.machine import Gpu
from localllm.placement import PlanOptions, open_model, target_here, this_machine
from tests.placement.conftest import cpu_only
from tests.support.tiny_models import llama_model, tiny_llama


def test_a_model_opens_and_computes(tiny_gguf: Path):
    read = []
    options = PlanOptions(n_ctx=512, n_parallel=2, n_ubatch=128)
    context = ContextOptions(n_threads=1)
    with open_model(
        tiny_gguf, options, target=cpu_only(), context=context, advance=read.append
    ) as opened:
        assert opened.context.n_ctx_seq == 512
        assert (opened.context.n_seq_max, opened.context.n_ubatch) == (2, 128)
        assert opened.context.n_threads == 1
        assert opened.placed.devices == (("CPU", 3),)  # two layers and the output
        assert (opened.placed.n_layers, opened.placed.n_offloaded) == (3, 0)
        assert opened.plan.verdict == "cpu"
        assert opened.advice == ()
        opened.context.prefill([1, 2, 3])
        assert len(opened.context.logits()) == opened.model.info.n_vocab
    assert opened.model.closed
    assert opened.context.closed
    assert sum(read) == tiny_gguf.stat().st_size


def test_what_a_plan_does_not_decide_is_the_callers(tiny_gguf: Path):
    load = LoadOptions(mmap=False, n_gpu_layers=77)
    with open_model(tiny_gguf, target=cpu_only(), load=load) as opened:
        assert not opened.model.options.mmap
        assert opened.model.options.n_gpu_layers == 0
        assert opened.plan.n_ctx == 2048  # the trained length: less than the default


def test_split_models_open_by_any_shard(tmp_path: Path):
    shards = llama_model().write_split(tmp_path, "big", 2)
    with open_model(shards[1], target=cpu_only()) as opened:
        assert opened.placed.n_layers == 3


def test_no_gpu_where_one_is_required(tiny_gguf: Path):
    with pytest.raises(GpuRequired) as caught:
        open_model(tiny_gguf, target=cpu_only(), require_gpu=True)
    assert caught.value.exit_code == ExitCode.DOES_NOT_FIT
    assert caught.value.hint == "localllm doctor"


def test_a_gpu_that_this_build_cannot_use_is_told_with_the_command(tiny_gguf: Path):
    """A CPU-only build on a machine with an RTX 4090."""
    gpu = Gpu("nvml", "gpu", "nvidia", 0, "NVIDIA GeForce RTX 4090", total_bytes=24 << 30)
    machine = replace(detect(), gpus=(gpu,), system="Linux")
    target = target_here(machine, devices=(), backends=("CPU",))
    with open_model(tiny_gguf, target=target) as opened:
        (advice,) = opened.advice
    assert advice.kind == "gpu_unused"
    assert "RTX 4090" in advice.message
    assert advice.hint is not None
    assert "GGML_CUDA=on" in advice.hint
    with pytest.raises(GpuRequired, match="RTX 4090") as caught:
        open_model(tiny_gguf, target=target, require_gpu=True)
    assert caught.value.hint == advice.hint


def test_too_little_memory_is_refused_unless_forced(tiny_gguf: Path):
    target = cpu_only(1 << 20)
    with pytest.raises(DoesNotFit, match=r"tiny\.gguf needs .* more than there is") as caught:
        open_model(tiny_gguf, target=target)
    assert caught.value.exit_code == ExitCode.DOES_NOT_FIT
    assert "\n" not in caught.value.message
    with open_model(tiny_gguf, target=target, force=True) as opened:
        assert [a.kind for a in opened.advice] == ["memory_short"]


def test_the_hint_is_a_context_that_fits(tmp_path: Path):
    path = tiny_llama(tmp_path / "long.gguf", n_layer=8, n_ctx_train=1 << 17)
    target = cpu_only(200 << 20)
    with pytest.raises(DoesNotFit) as caught:
        open_model(path, PlanOptions(n_ctx=1 << 17), target=target)
    assert caught.value.hint is not None
    fitting = int(caught.value.hint.split()[-1])
    with open_model(path, PlanOptions(n_ctx=fitting), target=target) as opened:
        assert opened.plan.runs


def test_a_context_beyond_training_is_allowed_and_said(tiny_gguf: Path):
    with open_model(tiny_gguf, PlanOptions(n_ctx=4096), target=cpu_only()) as opened:
        (advice,) = opened.advice
    assert (advice.kind, advice.hint) == ("beyond_training", "--ctx 2048")


def test_errors_before_anything_is_loaded(tmp_path: Path, tiny_gguf: Path):
    with pytest.raises(FileGone):
        open_model(tmp_path / "none.gguf", target=cpu_only())
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf.read_bytes()[:5000])
    with pytest.raises(DamagedFile):
        open_model(cut, target=cpu_only())


def test_without_a_target_it_is_this_machine(tiny_gguf: Path):
    with open_model(tiny_gguf, PlanOptions(n_ctx=256)) as opened:
        assert opened.placed.n_layers == 3
        assert bool(opened.placed.n_offloaded) == bool(this_machine().gpus)
