"""Training on a device that is not the CPU, without one: torch's FakeTensorMode.

    python -m tests.finetune.elsewhere_worker FOLDER GGUF...

Tensors have a device, a shape and no numbers; whatever computes with tensors of two devices
raises, as it would on a GPU. The device is a backend of this process's own ("elsewhere"), since a
torch for CPUs does not know CUDA's: hence a process apart. Writes FOLDER/found.json: by case the
devices of what was there after a run.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from localllm.finetune.building import Built, add_reference, build
from localllm.finetune.model.quantized import DeviceRows
from localllm.finetune.outcome.writing import pairs_of
from localllm.finetune.plan import Layout
from localllm.finetune.recipe import Recipe
from localllm.finetune.training import checkpoint as disk
from localllm.finetune.training.records import Unwatched
from localllm.finetune.training.trainer import Trainer
from localllm.finetune.training.whole import load_state, state_tensors
from localllm.ui import Silent
from tests.finetune.tiny_torch import rows

DEVICE = "elsewhere:0"
DENSE = Layout("dense", 40, checkpointing=False, device=DEVICE)
KEPT = replace(DENSE, frozen="quantized")
RECIPE = Recipe(objective="sft", steps=1, batch_size=2, precision="f32", dropout=0.1)


@dataclass(frozen=True)
class Case:
    name: str
    model: int
    recipe: Recipe = RECIPE
    layout: Layout = DENSE


LLAMA, GEMMA = 0, 1  # an output of its own, rows in pairs, biases; tied, windows
CASES = (
    Case("lora on numbers", LLAMA),
    Case("lora on stored bytes", LLAMA, layout=KEPT),
    Case("lora on stored bytes, tied, layers computed twice", GEMMA,
         layout=replace(KEPT, checkpointing=True)),
    Case("full, tied", GEMMA, replace(RECIPE, method="full", dropout=0.0)),
    Case("dora on stored bytes", GEMMA, replace(RECIPE, method="dora"), KEPT),
    Case("preferences", LLAMA, replace(RECIPE, objective="dpo"), KEPT),
)  # fmt: skip


class Numbers(TorchDispatchMode):
    """Where a number of a tensor is asked for, which has none here: 1."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        return func(*args, **(kwargs or {}))


def made(case: Case, path: Path) -> Built:
    first, second = rows(3), rows(3, seed=5)
    pairs = case.recipe.objective != "sft"
    items = [[a, b] if pairs else [a] for a, b in zip(first, second, strict=True)]
    learning: Any = SimpleNamespace(
        train=items[:2], held_out=items[2:],
        prepared=SimpleNamespace(report=SimpleNamespace(sha256="0")),
    )  # fmt: skip
    subject: Any = SimpleNamespace(model=SimpleNamespace(path=path))
    built = build(subject, learning, case.recipe, case.layout, None)
    add_reference(built, Silent(), None)
    return built


def run(case: Case, path: Path) -> dict[str, Any]:
    built = made(case, path)
    saved: list[tuple[disk.Checkpoint, list[tuple[str, Tensor]]]] = []
    # numbers that are not there
    disk.save = lambda checkpoint, tensors, path: saved.append((checkpoint, list(tensors)))
    disk.write_whole = lambda path, value, tensors: None
    disk.read_whole = lambda path: None
    place = SimpleNamespace(checkpoint=Path("checkpoint"), best=Path("best"))
    trainer = Trainer(built.task, replace(case.recipe, keep="last"), place, Unwatched())
    trained = trainer.run(resume=False)
    module = built.task.module
    kept = [
        one.rows for one in module.modules() if isinstance(getattr(one, "rows", None), DeviceRows)
    ]
    state, tensors = saved[-1]
    # as a resumed run does
    weights, held = (
        [(name.removeprefix(prefix), one) for name, one in tensors if name.startswith(prefix)]
        for prefix in ("learned ", "optimizer ")
    )
    built.task.learned.load(weights)
    load_state(trainer.optimizer, state.optimizer, held)
    moments = [v for one in trainer.optimizer.state.values() for v in one.values()]
    pairs = pairs_of(built).values() if built.adapters is not None else ()
    return {
        "steps": trained.steps,
        "parameters": devices(module.parameters()),
        "buffers": devices(module.buffers()),
        "bytes": devices(one.packed for one in kept),
        "moments": devices(one for one in moments if one.dim() > 0),
        "checkpoint": devices(one for _, one in weights),
        "optimizer": devices(one for _, one in state_tensors(trainer.optimizer)),
        "written": devices(one for pair in pairs for one in (pair.a, pair.b)),
    }


def devices(tensors: Any) -> list[str]:
    return sorted({str(one.device) for one in tensors})


def main(folder: Path, models: list[Path]) -> None:
    _setup_privateuseone_for_python_backend("elsewhere", backend_module=Backend())
    found = {}
    for case in CASES:
        # constants of transformers are made on the meta device, which the mode leaves as they are
        with FakeTensorMode(allow_non_fake_inputs=True), Numbers():
            found[case.name] = run(case, models[case.model])
        print(case.name, flush=True)
    try:
        with FakeTensorMode():
            torch.ones(2, 2) @ torch.ones(2, 2, device=DEVICE)
    except RuntimeError as error:
        found["mixed"] = str(error)
    (folder / "found.json").write_text(json.dumps(found), "utf-8")


class Backend:
    """What torch asks of a backend's module."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(one) for one in sys.argv[2:]])
