"""The published table: five models on three RTX 4060 Ti 16 GB and on two GTX 1080 Ti.

At the default context of 8192 tokens, and it holds from 2048 on. By arithmetic alone: none of
these GPUs is here.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from localllm.formats.gguf import read_header
from localllm.hardware import detect, parse_gpu_spec
from localllm.placement import DEFAULT_N_CTX, Plan, PlanOptions, plan_for, target_on_paper
from tests.placement.conftest import ALL_SHAPES, GIB, Written

THREE_4060 = "RTX 4060 Ti 16 GB:3"
TWO_1080 = "GTX 1080 Ti:2"

# model, mix, published file size in GB, verdicts on the two machines
TABLE = [
    ("llama3.1-70b", "Q4_K_M", 42.5, "all", "none"),
    ("gemma2-27b", "Q6_K", 22.3, "all", "partial"),
    ("gemma2-9b", "Q8_0", 9.8, "all", "all"),
    ("llama3.1-8b", "Q8_0", 8.5, "all", "all"),
    ("phi3.5-mini", "F16", 7.6, "all", "all"),
]


def place(spec: str, name: str, mix: str, n_ctx: int | None, written: Written) -> Plan:
    target = target_on_paper(detect(), [parse_gpu_spec(spec)])
    target = replace(target, host_available_bytes=64 * GIB, host_total_bytes=64 * GIB)
    return plan_for(read_header(written(name, mix=mix)), target, PlanOptions(n_ctx=n_ctx))


@pytest.mark.parametrize(("name", "mix", "size_gb", "on_three", "on_two"), TABLE)
@pytest.mark.parametrize("n_ctx", [None, 2048, 4096])
def test_published_table(name, mix, size_gb, on_three, on_two, n_ctx, written: Written):
    assert ALL_SHAPES[name](mix=mix).weight_bytes / 1e9 == pytest.approx(size_gb, abs=0.1)
    three, two = (place(spec, name, mix, n_ctx, written) for spec in (THREE_4060, TWO_1080))
    assert (three.verdict, two.verdict) == (on_three, on_two)
    assert three.n_ctx == (n_ctx or DEFAULT_N_CTX)
    assert three.basis == "arithmetic"


def test_what_separates_partly_from_not(written: Written):
    """Half of the layers: the 70B leaves more than half of its work to the CPU."""
    gemma = place(TWO_1080, "gemma2-27b", "Q6_K", None, written)
    llama = place(TWO_1080, "llama3.1-70b", "Q4_K_M", None, written)
    assert 2 * gemma.n_offloaded >= gemma.n_layers == 47
    assert 0 < 2 * llama.n_offloaded < llama.n_layers == 81
    assert llama.runs  # slowly, with 64 GiB of main memory


def test_no_device_is_overfull_and_the_layers_are_all_there(written: Written):
    for name, mix, *_ in TABLE:
        for spec in (THREE_4060, TWO_1080):
            plan = place(spec, name, mix, None, written)
            for device in plan.devices:
                assert device.total_bytes <= device.free_bytes - device.headroom_bytes
                assert device.free_bytes < device.total_memory_bytes
            layers = plan.host.n_layers + sum(d.n_layers for d in plan.devices)
            outputs = plan.host.holds_output + sum(d.holds_output for d in plan.devices)
            assert (layers + outputs, outputs) == (plan.n_layers, 1)
            assert plan.load.n_gpu_layers == plan.n_offloaded


def test_speed_of_what_is_whole_on_gpus(written: Written):
    """8.5 GB read at 288 GB/s for each token is 34 tokens a second at the very best."""
    speed = place(THREE_4060, "llama3.1-8b", "Q8_0", None, written).speed
    assert speed is not None
    assert speed.low_tps < speed.mid_tps < speed.high_tps < 288 / 8.5
    assert speed.mid_tps > 20
