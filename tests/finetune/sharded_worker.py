"""One of two processes that train parted models, and each alone what both trained together.

    python -m tests.finetune.sharded_worker FOLDER GGUF...

Writes FOLDER/RANK.json: by case what both learned and what one learns, and the bytes held.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from localllm.finetune.building import Built, add_reference, build
from localllm.finetune.outcome.writing import help_write, write_adapter, write_model
from localllm.finetune.plan import Layout
from localllm.finetune.recipe import Recipe
from localllm.finetune.training.group import ALONE, Group, join, leave
from localllm.finetune.training.prepare import prepare_torch
from localllm.finetune.training.records import Trained, Unwatched
from localllm.finetune.training.sharding import bytes_held
from localllm.finetune.training.trainer import Trainer
from localllm.finetune.training.whole import whole
from localllm.ui import Silent
from tests.finetune.tiny_torch import rows

PLAIN = Layout("dense", 40, checkpointing=False)
RECIPE = Recipe(  # at one rate, so that half a run learns as the first half of one
    objective="sft", steps=4, lr=3e-3, batch_size=3, precision="f32", eval_every=2,
    schedule="constant", warmup=0.0,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    name: str
    model: int
    recipe: Recipe
    layout: Layout = PLAIN
    exchanged: bool = False  # what two left at half time is gone on with by one, and back


LLAMA, QWEN, GEMMA = 0, 1, 2  # with an output of its own; tied, twice
CASES = (
    Case("lora", LLAMA, RECIPE),
    Case("full", LLAMA, replace(RECIPE, method="full", lr=1e-3), exchanged=True),
    Case("full, tied, layers computed twice", QWEN, replace(RECIPE, method="full", lr=1e-3),
         Layout("dense", 40, checkpointing=True)),
    Case("lora on stored bytes", GEMMA, RECIPE, Layout("quantized", 40, checkpointing=True)),
    Case("preferences", QWEN, replace(RECIPE, objective="dpo"),
         Layout("quantized", 40, checkpointing=False)),
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    checkpoint: Path
    best: Path


def made(case: Case, path: Path, group: Group) -> Built:
    sequences = rows(11)
    pairs = case.recipe.objective == "dpo"
    items = [[a, b] for a, b in zip(sequences, rows(11, seed=5), strict=True)]
    items = items if pairs else [[one] for one in sequences]
    learning: Any = SimpleNamespace(
        train=items[:8], held_out=items[8:],
        prepared=SimpleNamespace(report=SimpleNamespace(sha256="0")),
    )  # fmt: skip
    subject: Any = SimpleNamespace(model=SimpleNamespace(path=path))
    built = build(subject, learning, case.recipe, case.layout, None, group)
    add_reference(built, Silent(), None, group)
    return built


def run(case: Case, built: Built, folder: Path, group: Group, steps: int) -> Trained:
    """Train up to `steps` of the case's own, going on where a checkpoint is."""
    place = Place(folder / "checkpoint", folder / "best")
    trainer = Trainer(built.task, case.recipe, place, Unwatched(), group)
    trainer.n_steps = steps
    return trainer.run(resume=True)


def told(built: Built, trained: Trained) -> dict[str, Any]:
    learned = {n: whole(p).double().norm().item() for n, p in built.task.learned.named.items()}
    return {
        "losses": [one.loss for one in trained.history.steps],
        "norms": [one.grad_norm for one in trained.history.steps],
        "held": [one.loss for one in trained.history.evals],
        "kept": trained.kept_step,
        "learned": learned,
    }


def write(built: Built, path: Path) -> None:
    if built.adapters is not None:
        write_adapter(built, path, {})
    else:
        write_model(built, path, {}, lambda n: None)


def main(folder: Path, models: list[Path]) -> None:
    prepare_torch(1)
    group = replace(join(), shards=True)
    found: dict[str, Any] = {}
    for i, case in enumerate(CASES):
        place = folder / str(i)
        if group.is_first:
            for name in ("two", "one", "half"):
                (place / name).mkdir(parents=True)
        group.wait()
        path = models[case.model]
        built = made(case, path, group)
        one = {"two": told(built, run(case, built, place / "two", group, 4))}
        one["held"] = bytes_held(built.task.module)
        if group.is_first:
            write(built, place / "two.gguf")
            alone = made(case, path, ALONE)
            one["one"] = told(alone, run(case, alone, place / "one", ALONE, 4))
            one["whole"] = stored_bytes(alone, case)
            write(alone, place / "one.gguf")
        else:
            help_write(built)
        if case.exchanged:
            one |= exchange(case, path, place / "half", group)
        found[case.name] = one
    (folder / f"{group.rank}.json").write_text(json.dumps(found), "utf-8")
    leave()


def exchange(case: Case, path: Path, place: Path, group: Group) -> dict[str, Any]:
    """Two steps together, then two by one alone; and the other way round."""
    built, found = made(case, path, group), {}
    run(case, built, place, group, 2)
    if group.is_first:
        alone = made(case, path, ALONE)
        found["one after two"] = told(alone, run(case, alone, place, ALONE, 4))
        (place / "checkpoint").unlink()
        alone = made(case, path, ALONE)
        run(case, alone, place, ALONE, 2)
    group.wait()
    built = made(case, path, group)
    found["two after one"] = told(built, run(case, built, place, group, 4))
    return found


def stored_bytes(built: Built, case: Case) -> int:
    """What one process alone holds of parameters, and of matrices in the file's bytes."""
    held = bytes_held(built.task.module)
    if case.layout.frozen == "quantized":
        held += sum(
            built.loaded.weights[slot.gguf].size_bytes
            for slot in built.loaded.slots
            if len(slot.shape) == 2
        )
    return held


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(one) for one in sys.argv[2:]])
