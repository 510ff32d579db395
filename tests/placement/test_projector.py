"""What a projector takes, against llama.cpp's own reservation, and where it goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from localllm.engine.model import Model
from localllm.engine.vision.vision import Vision
from localllm.errors import EngineError, FileGone
from localllm.placement.projector import ProjectorNeed, beside_projector, projector_need
from localllm.placement.target import Target, TargetGpu
from tests.placement.conftest import cpu_only
from tests.support.tiny_mmproj import gemma3_mmproj, qwen2vl_mmproj, tiny_qwen2vl
from tests.support.tiny_models import tiny_gemma3

MIB = 1024 * 1024


@pytest.mark.parametrize("kind", ["gemma3", "qwen2vl"])
def test_the_need_is_what_llama_cpp_reserves(tmp_path: Path, kind: str) -> None:
    if kind == "qwen2vl":
        path = qwen2vl_mmproj(tmp_path / "mmproj.gguf")
        text = tiny_qwen2vl(tmp_path / "text.gguf")
    else:
        # large enough for what is not counted (the projection, turned round) to be little
        path = gemma3_mmproj(
            tmp_path / "mmproj.gguf", image_size=448, patch=14, n_embd=256, merge=4
        )
        text = tiny_gemma3(tmp_path / "text.gguf")
    need = projector_need(path)
    with Model.load(text) as model, Vision(model, path, use_gpu=False, n_threads=1) as vision:
        (buffer,) = vision.buffers
    file_bytes = path.stat().st_size
    assert file_bytes - 16_384 < need.weights_bytes <= file_bytes
    assert need.total_bytes == need.weights_bytes + need.compute_bytes
    # the log is rounded to 0.01 MiB
    assert 0.9 * buffer.compute_bytes - MIB / 50 <= need.compute_bytes
    assert need.compute_bytes <= 1.2 * buffer.compute_bytes + MIB / 50


def gpu(free_bytes: int) -> Target:
    card = TargetGpu("G", "", free_bytes, free_bytes, 100, None, "gpu", shares_host_memory=False)
    return Target((card,), 5000, 5000, None, 2, here=False)


def test_it_goes_to_the_gpu_where_there_is_room() -> None:
    need = ProjectorNeed(900, 100)
    target, use_gpu = beside_projector(gpu(1200), need)
    assert use_gpu
    assert (target.gpus[0].free_bytes, target.host_available_bytes) == (200, 5000)
    target, use_gpu = beside_projector(gpu(1199), need)
    assert not use_gpu
    assert (target.gpus[0].free_bytes, target.host_available_bytes) == (1199, 4000)
    target, use_gpu = beside_projector(cpu_only(5000), need)
    assert not use_gpu
    assert target.host_available_bytes == 4000


def test_other_files(tmp_path: Path, tiny_gguf: Path) -> None:
    with pytest.raises(EngineError, match=r"tiny.gguf is no projector"):
        projector_need(tiny_gguf)
    with pytest.raises(FileGone):
        projector_need(tmp_path / "none.gguf")
