"""hardware and doctor through the command line, with NVML answered by a compiled library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Model, Registry
from tests.conftest import Done
from tests.support.fake_nvml import fake_nvml_env

Cli = Callable[..., Done]
RTX_4090 = "NVIDIA GeForce RTX 4090|25757220864|25000000000|bus=384|clock=10501"


def no_gpu_backend() -> None:
    from localllm.engine.build import devices

    if any(d.offloads for d in devices()):
        pytest.skip("this build of llama.cpp has a GPU backend")


def test_hardware_without_a_driver(shell: Cli, tmp_path: Path) -> None:
    done = shell("hardware", "--json", env=fake_nvml_env(tmp_path, "no_driver"))
    assert done.exit_code == 0, done
    hardware = done.data["hardware"]
    assert hardware["cpu"]["logical_cores"] >= 1
    assert 0 < hardware["memory"]["available_bytes"] <= hardware["memory"]["total_bytes"]
    assert "CPU" in done.data["build"]["backends"]


def test_a_gpu_that_the_build_cannot_use_is_named_with_its_mending(
    shell: Cli, tmp_path: Path
) -> None:
    no_gpu_backend()
    env = fake_nvml_env(tmp_path, RTX_4090)
    done = shell("hardware", "--json", env=env)
    (gpu,) = done.data["hardware"]["gpus"]
    assert (gpu["name"], gpu["total_bytes"]) == ("NVIDIA GeForce RTX 4090", 25757220864)
    assert gpu["bandwidth_bytes_s"] == pytest.approx(1008e9, rel=0.01)  # the published figure
    (unused,) = done.data["match"]["unused"]
    assert 'CMAKE_ARGS="-DGGML_CUDA=on" pip install' in unused["rebuilds"][0]["command"]
    shown = shell("hardware", env=env)
    assert "NVIDIA GeForce RTX 4090" in shown.out
    assert "GGML_CUDA" in shown.err
    report = shell("doctor", "--offline", "--json", env=env)
    assert report.exit_code == 1
    problem = next(c for c in report.data["checks"] if c["status"] == "problem")
    assert (problem["area"], "GGML_CUDA" in problem["mend"]) == ("devices", True)


def test_loading_on_the_cpu_beside_a_gpu_is_never_silent(
    shell: Cli, tmp_path: Path, tiny_model: Model
) -> None:
    no_gpu_backend()
    env = fake_nvml_env(tmp_path, RTX_4090)
    done = shell("chat", "tiny", "hi", "-n", "2", "--json", env=env)
    assert done.exit_code == 0
    assert "GGML_CUDA" in done.json["warnings"][0]
    refused = shell("chat", "tiny", "hi", "--require-gpu", "--json", env=env)
    assert refused.exit_code == 4
    assert refused.json["error"]["kind"] == "gpu_required"
    assert "GGML_CUDA" in refused.json["error"]["hint"]


@pytest.mark.parametrize(
    ("scenario", "gpus"),
    [("zero", 0), ("one", 1), ("three", 3), ("driver_not_loaded", 0), ("version_mismatch", 0)],
)
def test_every_state_of_the_driver_is_a_result(
    shell: Cli, tmp_path: Path, scenario: str, gpus: int
) -> None:
    done = shell("hardware", "--json", env=fake_nvml_env(tmp_path, scenario))
    assert done.exit_code == 0, done
    assert len(done.data["hardware"]["gpus"]) == gpus
    assert shell("hardware", env=fake_nvml_env(tmp_path, scenario)).exit_code == 0


def test_a_lost_gpu_hides_no_other(shell: Cli, tmp_path: Path) -> None:
    done = shell("hardware", "--json", env=fake_nvml_env(tmp_path, "lost"))
    hardware = done.data["hardware"]
    assert hardware["gpus"]
    assert "gpu_lost" in [f["kind"] for f in hardware["findings"]]


def test_doctor_finds_a_missing_file_and_says_what_to_do(cli: Cli, tiny_model: Model) -> None:
    tiny_model.path.unlink()
    done = cli("doctor", "--offline", "--json")
    assert done.exit_code == 1
    registry = [c for c in done.data["checks"] if c["area"] == "registry"]
    assert ("problem", "localllm rm org/tiny") in [(c["status"], c["mend"]) for c in registry]


def test_doctor_finds_a_damaged_index(cli: Cli, registry: Registry, tiny_model: Model) -> None:
    for path in registry.home.glob("registry.db-*"):
        path.unlink()
    registry.database.path.write_bytes(b"no database" * 1000)
    done = cli("doctor", "--offline")
    assert done.exit_code == 1
    assert "localllm rebuild" in done.err
    assert cli("rebuild").exit_code == 0
    assert cli("doctor", "--offline").exit_code == 0


def test_unreachable_sources_are_warnings(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "LOCALLLM_OLLAMA_REGISTRY", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    done = cli("doctor", "--json")
    sources = [c for c in done.data["checks"] if c["area"] == "sources"]
    assert [c["status"] for c in sources] == ["warning"] * 3
    assert done.exit_code == 0
