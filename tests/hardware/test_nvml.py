"""NVML through the real pynvml and a pretended libnvidia-ml, a subprocess for each scenario."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_nvml import MIB, fake_nvml_env

PROGRAM = """
import dataclasses, json, sys
from pathlib import Path
from localllm.hardware import detect
root, timeout, visible, order = Path(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:5]
found = detect(
    root=root,
    timeout_s=timeout,
    cuda_visible_devices=None if visible == "unset" else visible,
    cuda_device_order=order or None,
)
print(json.dumps({
    "status": dataclasses.asdict(found.nvml),
    "gpus": [dataclasses.asdict(g) for g in found.gpus],
    "usable": [g.uuid for g in found.usable_gpus],
    "findings": [dataclasses.asdict(f) for f in found.findings],
}))
"""


def look(
    tmp_path: Path,
    scenario: str,
    *,
    timeout_s: float = 30.0,
    visible: str = "unset",
    order: str = "",
) -> dict[str, Any]:
    environment = os.environ | fake_nvml_env(tmp_path, scenario)
    machine = tmp_path / "machine"  # an empty /proc and /sys: only NVML speaks
    machine.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(machine), str(timeout_s), visible, order],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_one_gpu_and_everything_it_tells(tmp_path: Path) -> None:
    found = look(tmp_path, "one")
    assert found["status"]["state"] == "ok"
    assert found["status"]["driver_version"] == "570.86.15"
    assert found["status"]["cuda_version"] == "12.8"
    (gpu,) = found["gpus"]
    assert gpu["name"] == "NVIDIA GeForce RTX 4090"
    assert (gpu["total_bytes"], gpu["free_bytes"]) == (24564 * MIB, 24000 * MIB)
    assert gpu["used_bytes"] == 423 * MIB  # of the 564 gone, a quarter is the driver's reserve
    assert gpu["bandwidth_bytes_s"] == 1_008_096_000_000  # published: 1008 GB/s
    assert gpu["bandwidth_basis"] == "driver"
    assert gpu["bus_width_bits"] == 384
    assert gpu["memory_clock_hz"] == 10_501_000_000
    assert gpu["compute_capability"] == "8.9"
    assert (gpu["power_limit_w"], gpu["power_w"], gpu["temperature_c"]) == (450.0, 31.5, 36)
    assert (gpu["pcie_generation"], gpu["pcie_width"]) == (4, 16)
    assert gpu["pci_bus_id"] == "0000:01:00.0"
    assert (gpu["mig_enabled"], gpu["ecc_enabled"], gpu["display_active"]) == (False, None, True)
    assert found["findings"] == []


def test_no_gpus_behind_a_working_driver(tmp_path: Path) -> None:
    found = look(tmp_path, "zero")
    assert found["status"]["state"] == "ok"
    assert found["gpus"] == [] and found["findings"] == []


def test_three_gpus_keep_their_order(tmp_path: Path) -> None:
    found = look(tmp_path, "three")
    assert [g["index"] for g in found["gpus"]] == [0, 1, 2]
    assert {g["name"] for g in found["gpus"]} == {"NVIDIA GeForce RTX 4060 Ti"}
    assert len({g["uuid"] for g in found["gpus"]}) == 3
    assert {g["bandwidth_bytes_s"] for g in found["gpus"]} == {288_032_000_000}


def test_no_driver_is_a_status_not_an_error(tmp_path: Path) -> None:
    found = look(tmp_path, "no_driver")
    assert found["status"]["state"] == "no_library"
    assert "no NVIDIA driver" in found["status"]["message"]
    assert found["gpus"] == [] and found["findings"] == []


@pytest.mark.parametrize(
    ("scenario", "state", "finding"),
    [
        ("driver_not_loaded", "driver_not_loaded", "nvml_driver_not_loaded"),
        ("version_mismatch", "version_mismatch", "nvml_version_mismatch"),
        ("no_permission", "no_permission", "nvml_no_permission"),
        ("unknown_error", "failed", "nvml_failed"),
    ],
)
def test_a_failing_driver_is_named(tmp_path: Path, scenario: str, state: str, finding: str) -> None:
    found = look(tmp_path, scenario)
    assert found["status"]["state"] == state
    assert found["gpus"] == []
    (only,) = found["findings"]
    assert only["kind"] == finding
    assert only["hint"] and "\n" not in only["message"]


def test_a_lost_gpu_hides_no_other(tmp_path: Path) -> None:
    found = look(tmp_path, "lost")
    assert [(g["index"], g["name"]) for g in found["gpus"]] == [
        (0, "NVIDIA GeForce RTX 3090"),
        (2, "NVIDIA GeForce RTX 3060"),
    ]
    (finding,) = found["findings"]
    assert (finding["kind"], finding["subject"]) == ("gpu_lost", "GPU 1")
    assert found["status"]["state"] == "ok"


@pytest.mark.parametrize("answers", [1, 4, 9])
def test_a_gpu_that_is_lost_while_being_asked(tmp_path: Path, answers: int) -> None:
    """Half-read numbers of a GPU that is gone would plan a model onto it."""
    found = look(tmp_path, f"A|{MIB}|{MIB}|dies={answers};B|{MIB}|{MIB}")
    assert [g["name"] for g in found["gpus"]] == ["B"]
    assert [f["kind"] for f in found["findings"]] == ["gpu_lost"]


def test_a_gpu_that_cannot_even_be_opened(tmp_path: Path) -> None:
    found = look(tmp_path, f"A|{MIB}|0|nohandle;B|{MIB}|{MIB}")
    assert [g["index"] for g in found["gpus"]] == [1]
    assert [f["kind"] for f in found["findings"]] == ["gpu_lost"]


def test_a_name_that_is_no_text_hides_no_other(tmp_path: Path) -> None:
    found = look(tmp_path, f"\udcff\udcfe|{MIB}|{MIB};B|{MIB}|{MIB}")
    assert [g["name"] for g in found["gpus"]] == ["B"]
    assert [f["kind"] for f in found["findings"]] == ["gpu_unreadable"]


def test_a_quiet_gpu_takes_its_bandwidth_from_the_catalogue(tmp_path: Path) -> None:
    found = look(tmp_path, f"NVIDIA GeForce RTX 3090|{24576 * MIB}|{24000 * MIB}|quiet")
    (gpu,) = found["gpus"]
    assert gpu["bandwidth_bytes_s"] == 936_000_000_000
    assert gpu["bandwidth_basis"] == "catalogue"
    assert gpu["power_w"] is None and gpu["temperature_c"] is None
    assert gpu["mig_enabled"] is None
    assert found["findings"] == []


def test_a_board_that_shares_the_hosts_memory(tmp_path: Path) -> None:
    found = look(tmp_path, "NVIDIA GB10|0|0|nomemory|quiet")
    (gpu,) = found["gpus"]
    assert gpu["total_bytes"] is None
    assert gpu["unified"] is True
    assert [f["kind"] for f in found["findings"]] == ["gpu_memory_unknown"]


def test_mig_instances_are_devices_of_their_own(tmp_path: Path) -> None:
    found = look(tmp_path, "mig")
    parent, large, small = found["gpus"]
    assert (parent["kind"], parent["mig_enabled"], parent["ecc_enabled"]) == (
        "mig_parent",
        True,
        True,
    )
    assert (large["kind"], large["parent_index"], large["index"]) == ("mig_instance", 0, 0)
    assert (large["total_bytes"], large["free_bytes"]) == (20096 * MIB, 20000 * MIB)
    assert (small["total_bytes"], small["free_bytes"]) == (4864 * MIB, 4800 * MIB)
    assert large["bandwidth_bytes_s"] == 1215 * 10**6 * 2 * 640 * 20096 // 40960
    assert found["usable"] == [large["uuid"], small["uuid"]]


def test_mig_mode_without_instances_is_a_finding(tmp_path: Path) -> None:
    found = look(tmp_path, f"NVIDIA H100 80GB HBM3|{81559 * MIB}|{80000 * MIB}|mig")
    assert [f["kind"] for f in found["findings"]] == ["mig_without_instances"]
    assert found["usable"] == []


def test_a_driver_that_hangs_is_given_up_and_what_was_read_counts(tmp_path: Path) -> None:
    started = time.monotonic()
    found = look(tmp_path, f"A|{MIB}|{MIB};B|{MIB}|{MIB}|hang", timeout_s=1.0)
    assert time.monotonic() - started < 20
    assert found["status"]["state"] == "timed_out"
    assert [g["name"] for g in found["gpus"]] == ["A"]
    assert [f["kind"] for f in found["findings"]] == ["nvml_timed_out"]


def test_cuda_visible_devices_hides_the_others(tmp_path: Path) -> None:
    found = look(tmp_path, "three", visible="2,0")
    assert [g["hidden_by"] for g in found["gpus"]] == [None, "CUDA_VISIBLE_DEVICES", None]
    assert len(found["usable"]) == 2
