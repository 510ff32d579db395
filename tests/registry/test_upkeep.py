"""Garbage is found and only garbage; the index comes back from the files."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

from localllm.registry import Lineage, Model, Registry
from localllm.registry.datasets import dataset_file, keep_dataset_file
from localllm.registry.garbage import Garbage, garbage, sweep
from localllm.registry.upkeep import rebuild
from tests.conftest import arrival


def nothing(path: Path) -> Model | None:
    return None


def age(path: Path) -> None:
    past = time.time() - 3600
    os.utime(path, (past, past))


def test_garbage_is_what_nothing_refers_to(registry: Registry, tiny_model: Model) -> None:
    orphan = tiny_model.path.parent / "old.gguf"
    orphan.write_bytes(b"123")
    stale = registry.partial("a", "a")
    stale.write_bytes(b"4567")
    age(stale)
    fresh = registry.partial("b", "b")
    fresh.write_bytes(b"89")  # another process may be writing it
    lost = registry.manifests / "gone.json"
    lost.write_text("{}")
    found = garbage(registry)
    assert {(g.kind, g.path, g.size_bytes) for g in found} == {
        ("orphan", orphan, 3), ("partial", stale, 4), ("manifest", lost, 2),
    }  # fmt: skip
    assert sweep(registry, found) == 9
    assert garbage(registry) == ()
    assert tiny_model.path.exists()
    assert fresh.exists()


def test_a_held_lock_is_not_garbage(registry: Registry) -> None:
    with registry.lock("k"):
        assert garbage(registry) == ()


def test_data_sets_that_no_model_was_made_from(registry: Registry, tiny_gguf: Path) -> None:
    def keep(name: str) -> Path:
        made = registry.partial(name, name)
        made.write_bytes(b"rows")
        final = dataset_file(registry, name, "c0ffee", "data/train.jsonl")
        keep_dataset_file(made, final)
        return final

    used, unused = keep("org/used"), keep("org/unused")
    lineage = Lineage(
        "finetune", (("base", None),), "localllm finetune",
        inputs={"data": "1" * 64, "data:hf-dataset:org/used/data/train.jsonl": "2" * 64},
    )  # fmt: skip
    registry.add(arrival("tuned", tiny_gguf, in_place=True, lineage=lineage))
    with registry.lock("a run that reads them"):
        assert garbage(registry) == ()
    found = garbage(registry)
    assert found == (Garbage("dataset", unused, 4),)
    with registry.lock("another that has begun meanwhile"):
        assert sweep(registry, found) == 0
    assert sweep(registry, found) == 4
    assert garbage(registry) == ()
    assert used.exists()
    assert [p.name for p in (registry.home / "datasets" / "org").iterdir()] == ["used"]


def test_the_index_comes_back_from_the_manifests(registry: Registry, tiny_model: Model) -> None:
    registry.set_alias("nick", tiny_model)
    registry.record(tiny_model, "bench", {"tg_tps": 2})
    before = registry.models()
    result = rebuild(registry, nothing)
    assert (result.models, result.from_manifests, result.measurements) == (1, 1, 1)
    assert result.old_index is not None
    after = registry.models()
    assert [replace(m, id=0) for m in after] == [replace(m, id=0) for m in before]
    assert registry.resolve("nick").name == tiny_model.name


def test_a_destroyed_index_comes_back_too(registry: Registry, tiny_model: Model) -> None:
    registry.database.path.write_bytes(b"garbage" * 1000)
    result = rebuild(registry, nothing)
    assert (result.models, result.measurements) == (1, 0)
    assert registry.resolve("tiny").path == tiny_model.path


def test_a_file_without_a_manifest_is_described(registry: Registry, tiny_model: Model) -> None:
    for path in registry.manifests.glob("*.json"):
        path.unlink()
    asked: list[Path] = []

    def describe(path: Path) -> Model | None:
        asked.append(path)
        return replace(tiny_model, name="found", aliases=())

    result = rebuild(registry, describe)
    assert (result.models, result.from_files) == (1, 1)
    assert asked == [tiny_model.path]
    assert registry.resolve("found").path == tiny_model.path


def test_damaged_manifests_and_missing_files_are_reported(
    registry: Registry, tiny_model: Model
) -> None:
    (registry.manifests / "a.json").write_text('{"schema": 1, "name": 3}')
    (registry.manifests / "b.json").write_bytes(b"\xff\x00")
    tiny_model.path.unlink()
    result = rebuild(registry, nothing)
    assert result.models == 0
    assert len(result.skipped) == 3


def test_importance_matrices_go_with_their_model(registry: Registry, tiny_model: Model) -> None:
    from localllm.registry.matrices import keep_matrix

    made = registry.home / "partial" / "made.gguf"
    made.parent.mkdir(exist_ok=True)
    made.write_bytes(b"x" * 9)
    kept = keep_matrix(registry, made, tiny_model.name, "mark")
    assert garbage(registry) == ()
    registry.remove(tiny_model)
    (found,) = garbage(registry)
    assert (found.kind, found.path, found.size_bytes) == ("imatrix", kept, 9)
    assert sweep(registry, (found,)) == 9
    assert not kept.exists()
