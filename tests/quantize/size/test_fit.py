"""The largest model that a machine holds, against the plan of a file of that size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from localllm.errors import DoesNotFit
from localllm.formats.gguf import read_model
from localllm.placement import PlanOptions, Target, TargetGpu, plan_for
from localllm.quantize.size.fit import bytes_that_fit, retyped
from tests.support.tiny_models import tiny_llama

KINDS = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0", "f16")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "m.gguf", n_layer=6, n_embd=512, n_ff=2048)


def target(host: int, gpu: int | None = None) -> Target:
    gpus: tuple[TargetGpu, ...] = ()
    if gpu is not None:
        gpus = (TargetGpu("GPU", "a GPU", gpu, gpu, 0, None, "cuda", False),)
    return Target(gpus, host, host, None, 2, here=False)


class Uniform:
    """One type for all: the best that a number of bytes allows."""

    def __init__(self, path: Path) -> None:
        self.header = read_model(path)
        self.names = [n for n, t in self.header.tensors.items() if len(t.shape) > 1]
        self.sizes = {kind: self.size(kind) for kind in KINDS}

    def size(self, kind: str) -> int:
        found = retyped(self.header, self.of(kind)).tensors
        return sum(found[name].size_bytes for name in self.names)

    def of(self, kind: str) -> dict[str, str]:
        return dict.fromkeys(self.names, kind)

    def __call__(self, n_bytes: int) -> Mapping[str, str]:
        return self.of([kind for kind in KINDS if self.sizes[kind] <= n_bytes][-1])


def test_a_retyped_header_is_what_a_file_of_these_types_says(path: Path, tmp_path: Path) -> None:
    import gguf

    uniform = Uniform(path)
    tensors = retyped(uniform.header, uniform.of("q4_k")).tensors
    for name in uniform.names:
        n = uniform.header.tensors[name].n_elements
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q4_K]
        assert tensors[name].size_bytes == n // block * size
        assert tensors[name].type.name == "Q4_K"
    assert tensors["output_norm.weight"] == uniform.header.tensors["output_norm.weight"]


@pytest.mark.parametrize("n_ctx", [512, 4096])
def test_the_most_that_runs_in_memory(path: Path, n_ctx: int) -> None:
    uniform = Uniform(path)
    needs = {
        kind: plan_for(
            retyped(uniform.header, uniform.of(kind)), target(1 << 40), PlanOptions(n_ctx=n_ctx)
        )
        for kind in KINDS
    }
    plan = needs["q5_k"]
    room = plan.total_bytes + int(plan.compute_error * plan.compute_bytes)
    found, assumed = bytes_that_fit(
        uniform.header, uniform, uniform.sizes["q2_k"], uniform.sizes["f16"], n_ctx, target(room)
    )
    assert set(uniform(found).values()) == {"q5_k"}
    assert uniform.sizes["q6_k"] - found < (uniform.sizes["f16"] - uniform.sizes["q2_k"]) / 1000
    assert (assumed.where, assumed.n_ctx) == ("memory", n_ctx)
    assert assumed.kv_bytes == plan.kv_bytes
    assert assumed.weights_bytes == plan.weights_bytes


def test_a_gpu_that_holds_all_layers_is_the_limit(path: Path) -> None:
    uniform = Uniform(path)
    plan = plan_for(
        retyped(uniform.header, uniform.of("q3_k")),
        target(1 << 40, 1 << 40),
        PlanOptions(n_ctx=512),
    )
    assert plan.verdict == "all"
    room = plan.devices[0].total_bytes + int(plan.compute_error * plan.compute_bytes)
    machine = target(1 << 40, room)
    found, assumed = bytes_that_fit(
        uniform.header, uniform, uniform.sizes["q2_k"], uniform.sizes["f16"], 512, machine
    )
    assert assumed.where == "GPU"
    assert set(uniform(found).values()) == {"q3_k"}


def test_a_gpu_too_small_for_any_leaves_it_to_memory(path: Path) -> None:
    uniform = Uniform(path)
    found, assumed = bytes_that_fit(
        uniform.header, uniform, uniform.sizes["q2_k"], uniform.sizes["f16"], 512,
        target(1 << 40, 1 << 20),
    )  # fmt: skip
    assert (found, assumed.where) == (uniform.sizes["f16"], "memory")


def test_nothing_fits(path: Path) -> None:
    uniform = Uniform(path)
    with pytest.raises(DoesNotFit) as refused:
        bytes_that_fit(
            uniform.header, uniform, uniform.sizes["q2_k"], uniform.sizes["f16"], 512,
            target(1 << 20),
        )  # fmt: skip
    assert "512" in refused.value.message
