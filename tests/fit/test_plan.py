"""`fit`: models in places, here and on paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from localllm.errors import DamagedFile, UsageProblem
from localllm.fit.plan import HERE, Place, Subject, fit, places
from localllm.formats.gguf import parse_header, read_header, read_model
from localllm.hardware import detect
from localllm.hardware.machine import Gpu
from localllm.placement import PlanOptions, target_here
from tests.support.gguf_writer import U32, T, header_bytes
from tests.support.real_shapes import SHAPES, write

GIB = 1 << 30


@pytest.fixture(scope="module")
def llama8b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(SHAPES["llama3.1-8b"](), tmp_path_factory.mktemp("fit"), "llama.gguf")


def test_without_a_gpu_option_the_place_is_here():
    (place,) = places()
    assert (place.name, place.target.here) == (HERE, True)


def test_each_option_is_a_machine_of_its_own():
    found = places(["RTX 4060 Ti 16 GB:3", "RTX 3090 + RTX 3060 12 GB"], ["24GiB:2", "8GiB"])
    assert [place.name for place in found][2:] == ["24GiB:2", "8GiB"]
    sizes = [[gpu.total_bytes // GIB for gpu in place.target.gpus] for place in found]
    assert sizes == [[16, 16, 16], [24, 12], [24, 24], [8]]
    names = [gpu.name for gpu in found[0].target.gpus]
    assert names == [f"RTX 4060 Ti 16 GB #{i}" for i in (1, 2, 3)]
    assert not any(place.target.here for place in found)


@pytest.mark.parametrize(
    ("gpus", "vram"),
    [(["RTX 9999"], []), ([""], []), (["RTX 3090 + "], []), ([], ["24"]), ([], ["24GiB:0"]),
     ([], ["24GiB:x"]), ([], ["much"])],
)  # fmt: skip
def test_machines_that_do_not_exist(gpus: list[str], vram: list[str]):
    with pytest.raises(UsageProblem):
        places(gpus, vram)


def test_models_in_places(llama8b: Path):
    where = places(["RTX 3090"], ["2GiB"])
    subjects = [
        Subject("b", read_header(llama8b)),
        Subject("a", read_model(llama8b), llama8b),
    ]
    report = fit(subjects, where, PlanOptions(n_ctx=4096))
    assert [(f.model, f.place) for f in report.fits] == [
        ("b", "RTX 3090"), ("b", "2GiB"), ("a", "RTX 3090"), ("a", "2GiB"),
    ]  # fmt: skip
    first = report.fits[0]
    assert (first.architecture, first.plan.verdict) == ("llama", "all")
    assert first.n_params == pytest.approx(8.03e9, rel=0.01)
    assert first.bits_per_weight == pytest.approx(4.9, abs=0.1)
    assert first.plan.speed is not None
    assert report.fits[1].plan.verdict == "none"  # a few layers in 2 GiB
    assert report.fits[1].plan.speed is None  # of a bare size no bandwidth is known
    assert report.all_run == all(f.plan.runs for f in report.fits)
    assert report.advice == ()


def test_here_llama_cpp_is_asked_downloaded_or_not(llama8b: Path):
    here = places()
    model = read_model(llama8b)
    report = fit([Subject("x", model), Subject("y", model, llama8b)], here, PlanOptions())
    remote, local = report.fits
    assert (remote.plan.basis, local.plan.basis) == ("llama.cpp", "llama.cpp")
    assert remote.plan.total_bytes == local.plan.total_bytes
    assert remote.unasked is None


def test_an_architecture_that_llama_cpp_does_not_know_is_still_planned(tmp_path: Path):
    metadata = {
        "general.architecture": "llama9000", "llama9000.block_count": U32(2),
        "llama9000.embedding_length": U32(64), "llama9000.context_length": U32(512),
        "llama9000.attention.head_count": U32(4),
    }  # fmt: skip
    blob = header_bytes(metadata, [T("token_embd.weight", (64, 128), "F16")])
    header = parse_header(blob, 1 << 20, name="new.gguf")
    (found,) = fit([Subject("new", header)], places(), PlanOptions()).fits
    assert found.plan.basis == "arithmetic"
    assert found.unasked is not None
    assert "llama9000" in found.unasked
    assert "\n" not in found.unasked


def test_what_is_no_model_is_damage():
    header = parse_header(header_bytes({"general.architecture": "clip"}), 1 << 20)
    with pytest.raises(DamagedFile):
        fit([Subject("mmproj", header)], places([], ["8GiB"]), PlanOptions())


def test_a_gpu_that_the_build_cannot_use_is_advice(llama8b: Path):
    gpu = Gpu("nvml", "gpu", "nvidia", 0, "NVIDIA GeForce RTX 4090", total_bytes=24 * GIB)
    machine = replace(detect(), gpus=(gpu,), system="Linux")
    target = target_here(machine, devices=(), backends=("CPU",))
    report = fit([Subject("x", read_header(llama8b))], [Place(HERE, target)], PlanOptions())
    (advice,) = report.advice
    assert advice.hint is not None
    assert "GGML_CUDA=on" in advice.hint
    assert report.fits[0].plan.verdict == "cpu"
