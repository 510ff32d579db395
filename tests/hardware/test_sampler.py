"""The GPU sampler on the pretended driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.fake_nvml import MIB, fake_nvml_env

PROGRAM = """
import dataclasses, json, time
from localllm.hardware import GpuSampler
with GpuSampler(interval_s=0.02) as sampler:
    time.sleep(0.2)
print(json.dumps([dataclasses.asdict(load) for load in sampler.loads]))
"""


def sample(tmp_path: Path, scenario: str, program: str = PROGRAM) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | fake_nvml_env(tmp_path, scenario),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    loads: list[dict[str, Any]] = json.loads(done.stdout)
    return loads


def test_power_clock_temperature_and_throttling(tmp_path: Path) -> None:
    gpu = f"|{MIB}|{MIB}|power=200000|temp=71"
    (counted, summed) = sample(tmp_path, f"A{gpu}|reasons=0x44;B{gpu}|noenergy|reasons=1")
    assert counted["samples"] >= 3
    assert (counted["mean_power_w"], counted["max_power_w"]) == (200.0, 200.0)
    assert counted["energy_j"] == 5.0  # the pretended counter: 5 J between two questions
    assert counted["max_temperature_c"] == 71
    assert counted["mean_clock_hz"] == 1_980_000_000
    assert counted["throttled"] == ["power cap", "thermal (hardware)"]
    assert summed["throttled"] == []  # idle is no throttling
    assert 0 < summed["energy_j"] <= 200.0 * summed["measured_s"]


def test_a_gpu_that_tells_nothing_and_one_that_is_lost(tmp_path: Path) -> None:
    (quiet,) = sample(tmp_path, f"A|{MIB}|{MIB}|quiet;B|{MIB}|{MIB}|lost")
    assert quiet["name"] == "A"
    assert quiet["mean_power_w"] is None and quiet["energy_j"] is None


def test_no_driver_is_no_samples(tmp_path: Path) -> None:
    assert sample(tmp_path, "no_driver") == []
    assert sample(tmp_path, "driver_not_loaded") == []


WATCHED = """
import dataclasses, json, time
from localllm.hardware import GpuSampler
with GpuSampler(interval_s=0.02) as sampler:
    time.sleep(0.1)
    for _ in range(2):
        with sampler.watch():
            time.sleep(0.1)
        time.sleep(0.1)
print(json.dumps([dataclasses.asdict(load) for load in sampler.loads]))
"""


def test_only_what_is_watched_counts(tmp_path: Path) -> None:
    gpu = f"|{MIB}|{MIB}|power=200000|temp=71"
    (counted, summed) = sample(tmp_path, f"A{gpu};B{gpu}|noenergy", WATCHED)
    assert 0.2 <= counted["measured_s"] < 0.6  # two stretches, of half of the time
    assert counted["samples"] >= 4
    # The pretended counter rises by 5 J with each question: one step in each stretch.
    assert counted["energy_j"] == 10.0
    assert abs(summed["energy_j"] - 200.0 * summed["measured_s"]) < 0.5


INSTANT = WATCHED.replace("time.sleep(0.1)", "pass")


def test_a_stretch_shorter_than_the_interval_has_a_sample(tmp_path: Path) -> None:
    (load,) = sample(tmp_path, f"A|{MIB}|{MIB}|power=200000|temp=71", INSTANT)
    assert load["samples"] >= 1
    assert load["mean_power_w"] == 200.0
