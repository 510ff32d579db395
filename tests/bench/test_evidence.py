"""Evidence: what is made of what the samplers saw, and the samplers on a pretended driver."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from localllm.hardware import CpuLoad, Gpu, GpuLoad
from localllm.library.bench.conditions.evidence import (
    _nvml_indices,
    judged,
    observe,
    observe_opened,
)
from localllm.placement import PlanOptions, open_model
from tests.support.fake_nvml import GIB, fake_nvml_env

CPU = CpuLoad(
    samples=10, measured_s=4.0, mean_clock_hz=3_000_000_000, min_clock_hz=2_900_000_000,
    max_temperature_c=60.0, mean_power_w=30.0, energy_j=120.0, energy_refused=None,
    own_cores=2.0, other_cores=0.15, stolen_cores=0.0, n_cpus=4, throttled=(),
)  # fmt: skip
GPU = GpuLoad(
    index=0, name="A", samples=20, measured_s=4.0, mean_power_w=200.0, max_power_w=210.0,
    energy_j=800.0, max_temperature_c=70, min_clock_hz=1_900_000_000, mean_clock_hz=1_980_000_000,
    throttled=(),
)  # fmt: skip


def cpu(**changes: Any) -> CpuLoad:
    return dataclasses.replace(CPU, **changes)


def gpu(**changes: Any) -> GpuLoad:
    return dataclasses.replace(GPU, **changes)


def test_a_quiet_run_on_the_cpu() -> None:
    seen = judged(CPU, [], False, 60, [10.0, 10.1, 9.9])
    assert seen.noisy == ()
    assert (seen.mean_clock_hz, seen.min_clock_hz) == (3_000_000_000, 2_900_000_000)
    assert (seen.max_temperature_c, seen.own_cores, seen.other_cores) == (60.0, 2.0, 0.15)
    assert (seen.energy_j, seen.mean_power_w, seen.joules_per_token) == (120.0, 30.0, 2.0)
    assert (seen.energy_basis, seen.measured_s) == ("rapl", 4.0)


def test_gpus_give_the_lowest_clock_the_highest_heat_and_summed_energy() -> None:
    other = gpu(index=1, mean_clock_hz=1_700_000_000, min_clock_hz=1_650_000_000,
                max_temperature_c=81, energy_j=400.0)  # fmt: skip
    seen = judged(CPU, [GPU, other], True, 132)
    assert (seen.mean_clock_hz, seen.min_clock_hz) == (1_700_000_000, 1_650_000_000)
    assert seen.max_temperature_c == 81
    assert (seen.energy_j, seen.energy_basis) == (1320.0, "nvml+rapl")
    assert (seen.mean_power_w, seen.joules_per_token) == (330.0, 10.0)
    unread = judged(cpu(energy_j=None, mean_power_w=None), [GPU, other], True, 132)
    assert (unread.energy_j, unread.energy_basis) == (1200.0, "nvml")


def test_part_of_the_energy_is_not_called_the_whole() -> None:
    for gpus in ([], [GPU, gpu(index=1, energy_j=None)]):
        seen = judged(CPU, gpus, True, 10)
        assert (seen.energy_j, seen.energy_basis, seen.joules_per_token) == (None, None, None)


@pytest.mark.parametrize(
    ("cpu_changes", "gpu_changes", "samples", "words"),
    [
        ({"other_cores": 0.6}, {}, [], "other processes kept 0.60 cores busy"),
        ({"n_cpus": 2}, {}, [], "kept 0.15 cores busy"),  # none of them is free
        ({"stolen_cores": 0.3}, {}, [], "host took 0.30 cores"),
        ({"throttled": ("quota",)}, {}, [], "quota"),
        ({}, {"throttled": ("power cap",)}, [], "throttled: power cap"),
        ({}, {"min_clock_hz": 990_000_000}, [], "clocks dropped to 50%"),
        ({}, {}, [10.0, 14.0, 10.0], "samples differ by 20%"),
    ],
)
def test_each_disturbance_is_said(
    cpu_changes: dict[str, Any], gpu_changes: dict[str, Any], samples: list[float], words: str
) -> None:
    seen = judged(cpu(**cpu_changes), [gpu(**gpu_changes)], True, 10, samples)
    assert len(seen.noisy) == 1
    assert words in seen.noisy[0]


def test_a_hot_processor_is_said_where_it_computes() -> None:
    hot = cpu(throttled=("thermal",))
    assert judged(hot, [], False, 10).noisy == ("throttled: thermal",)
    assert judged(hot, [], False, 10).throttled == ("thermal",)


def test_a_tick_of_others_in_a_short_run_is_not_noise() -> None:
    assert judged(cpu(measured_s=0.02, other_cores=1.0), [], False, 10).noisy == ()


def test_the_real_samplers_on_this_machine() -> None:
    with observe(False) as seen:
        time.sleep(0.05)
        for _ in range(2):
            with seen.timed():
                until = time.perf_counter() + 0.2
                while time.perf_counter() < until:
                    pass
    found = seen.evidence(100)
    assert 0.4 <= found.measured_s < 2
    assert found.own_cores is not None and 0 < found.own_cores < 1.5
    assert found.other_cores is not None and found.other_cores >= 0


def test_the_meters_of_the_devices_that_hold_layers() -> None:
    known = {
        "CUDA0": Gpu("nvml", "gpu", "nvidia", 2, "A"),
        "CUDA1": Gpu("nvml", "mig_instance", "nvidia", 0, "B", parent_index=3),
        "Vulkan0": Gpu("drm", "gpu", "amd", 0, "C"),
    }
    assert _nvml_indices(["CUDA0"], known) == frozenset({2})
    assert _nvml_indices(["CUDA0", "CUDA1"], known) == frozenset({2, 3})
    assert _nvml_indices(["Vulkan0"], known) == frozenset()  # an NVIDIA card beside it is idle
    assert _nvml_indices(["CUDA5"], known) is None


def test_a_model_on_the_cpu_is_watched_there(tiny_gguf: Path) -> None:
    with open_model(tiny_gguf, PlanOptions(n_ctx=256, n_gpu_layers=0)) as opened:
        with observe_opened(opened) as seen, seen.timed():
            time.sleep(0.05)
        found = seen.evidence(1)
    assert found.measured_s >= 0.05
    assert found.energy_basis in (None, "rapl")


PROGRAM = """
import dataclasses, json, time
from localllm.library.bench.conditions.evidence import observe
with observe(True, gpu_indices={1}) as seen:
    for _ in range(2):
        with seen.timed():
            time.sleep(0.3)
print(json.dumps(dataclasses.asdict(seen.evidence(50))))
"""


def test_the_gpus_that_computed_are_watched(tmp_path: Path) -> None:
    scenario = f"A|{GIB}|{GIB}|temp=90;B|{GIB}|{GIB}|power=200000|temp=71|reasons=4"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | fake_nvml_env(tmp_path, scenario),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["max_temperature_c"] == 71
    assert found["throttled"] == ["power cap"]
    assert found["energy_j"] == pytest.approx(10.0)  # 5 J between two questions, two stretches
    assert found["joules_per_token"] == pytest.approx(0.2)
    assert found["energy_basis"] in ("nvml", "nvml+rapl")
    assert found["mean_power_w"] == pytest.approx(10.0 / found["measured_s"])
    assert "throttled: power cap" in found["noisy"]
