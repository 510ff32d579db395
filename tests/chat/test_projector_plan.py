"""What is left for the text model where a projector comes with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from localllm.chat.session import LoadWishes, target_for, wished_plan
from localllm.errors import EngineError, FileGone
from localllm.placement import PlanOptions, Target, TargetGpu, projector_need
from localllm.registry import Model, Registry
from tests.conftest import arrival
from tests.support.tiny_mmproj import gemma3_mmproj
from tests.support.tiny_models import tiny_gemma3

GIB = 1 << 30


@pytest.fixture
def model(tmp_path: Path) -> Model:
    registry = Registry(tmp_path / "home")
    made = arrival("eyes", tiny_gemma3(tmp_path / "eyes.gguf"), architecture="gemma3")
    projector = replace(arrival("p", gemma3_mmproj(tmp_path / "p.gguf")).files[0], role="mmproj")
    extras = {"parameters": {"num_ctx": 1234}}
    registry.add(replace(made, name="eyes", files=(*made.files, projector), extras=extras))
    return next(iter(registry.models()))


def machine(gpu_bytes: int = 0) -> Target:
    card = TargetGpu("G", "", GIB, gpu_bytes, 0, None, "gpu", shares_host_memory=False)
    gpus = (card,) if gpu_bytes else ()
    return Target(gpus, GIB, GIB, None, 2, here=False)


def test_its_room_is_kept_free(model: Model, tmp_path: Path) -> None:
    wishes = LoadWishes(PlanOptions())
    own = projector_need(model.with_role("mmproj")[0].path)
    assert target_for(model, wishes, machine()).host_available_bytes == GIB - own.all_bytes
    left = target_for(model, wishes, machine(GIB))
    assert left.gpus[0].free_bytes == GIB - own.total_bytes
    assert left.host_available_bytes == GIB - own.image_bytes
    other = gemma3_mmproj(tmp_path / "other.gguf", n_layer=8)  # the user's counts, not its own
    need = projector_need(other)
    assert need.all_bytes > own.all_bytes
    wishes = replace(wishes, mmproj=other)
    assert target_for(model, wishes, machine()).host_available_bytes == GIB - need.all_bytes


def test_what_is_no_projector_is_said_before_anything_is_loaded(
    model: Model, tmp_path: Path
) -> None:
    wishes = LoadWishes(PlanOptions(), mmproj=model.path)
    with pytest.raises(EngineError, match="is no projector"):
        target_for(model, wishes, machine())
    with pytest.raises(FileGone):
        target_for(model, replace(wishes, mmproj=tmp_path / "none.gguf"), machine())
    # the model's own: it answers texts without
    model.with_role("mmproj")[0].path.write_bytes(b"GGUF")
    assert target_for(model, LoadWishes(PlanOptions()), machine()) == machine()


def test_num_ctx_is_each_models_own(model: Model) -> None:
    assert wished_plan(model, LoadWishes(PlanOptions())).n_ctx == 1234
    assert wished_plan(model, LoadWishes(PlanOptions(n_ctx=99))).n_ctx == 99
