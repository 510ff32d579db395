"""Files on their way into the registry and out of it, while others are at the same work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from localllm.errors import InvalidReference, ModelNotFound
from localllm.refs import ModelRef
from localllm.registry import Arrival, Model, Registry
from localllm.registry.garbage import garbage, sweep
from tests.conftest import arrival


def came(tmp_path: Path, name: str, content: bytes, **more: object) -> Arrival:
    path = tmp_path / f"{name}-{len(content)}.tmp"
    path.write_bytes(content)
    return arrival(name, path, file_name="w.gguf", **more)


def test_a_name_that_another_model_has_or_goes_by(registry: Registry, tmp_path: Path) -> None:
    def mine(model: Model) -> bool:
        return model.ref.scheme == "hf"

    other = registry.add(came(tmp_path, "m", b"theirs", ref=ModelRef("file", "/m.gguf")))
    first = registry.add(came(tmp_path, "m", b"mine"), mine)
    assert (other.name, first.name) == ("org/m", "org/m-2")
    again = registry.add(came(tmp_path, "m", b"mine, anew"), mine)
    assert (again.id, again.name) == (first.id, "org/m-2")
    assert other.path.read_bytes() == b"theirs"
    registry.set_alias("org/n", other)
    assert registry.add(came(tmp_path, "n", b"mine too"), mine).name == "org/n-2"


def test_the_copy_that_arrives_mends_the_one_that_is_here(
    registry: Registry, tmp_path: Path
) -> None:
    old = registry.add(came(tmp_path, "a", b"content"))
    old.path.write_bytes(b"conTent")  # of the same size: nobody has noticed
    new = registry.add(came(tmp_path, "b", b"content"))
    assert (old.path.read_bytes(), new.path.read_bytes()) == (b"content", b"content")
    assert old.path.samefile(new.path)


def test_a_reference_that_could_not_be_read_again_is_refused_first(
    registry: Registry, tmp_path: Path
) -> None:
    bad = came(tmp_path, "m", b"x", ref=ModelRef("hf", "org/m", None, "a:b"))
    with pytest.raises(InvalidReference):
        registry.add(bad)
    assert bad.files[0].path.exists()
    assert registry.models() == ()


def test_what_lands_while_the_old_is_removed_stays(registry: Registry, tmp_path: Path) -> None:
    """Between forgetting a model and deleting its files another process may pull it."""
    old = registry.add(came(tmp_path, "m", b"content"))
    files = registry._forget(old)
    new = registry.add(came(tmp_path, "m", b"content"))
    assert new.path == old.path
    assert registry._discard(files) == 0
    assert new.path.read_bytes() == b"content"


def test_a_model_that_somebody_else_has_removed(registry: Registry, tmp_path: Path) -> None:
    """The index gives the number of a removed model to the next one."""
    old = registry.add(came(tmp_path, "old", b"old content"))
    registry.remove(old)
    new = registry.add(came(tmp_path, "new", b"new content"))
    assert new.id == old.id
    assert registry.remove(old) == 0
    registry.set_digest(old, old.files[0], "0" * 64)
    with pytest.raises(ModelNotFound):
        registry.set_alias("nick", old)
    assert registry.models() == (new,)
    assert new.path.read_bytes() == b"new content"
    assert len(list(registry.manifests.iterdir())) == 1


def test_an_alias_for_what_was_removed_meanwhile(registry: Registry, tiny_model: Model) -> None:
    registry.remove(tiny_model)
    with pytest.raises(ModelNotFound):
        registry.set_alias("nick", tiny_model)


def test_a_file_that_was_moved_and_not_registered_is_taken_back(
    registry: Registry, tmp_path: Path
) -> None:
    mine = came(tmp_path, "m", b"content")
    final = registry.home / "models" / "hf" / "org" / "m" / "w.gguf"
    final.parent.mkdir(parents=True)
    mine.files[0].path.rename(final)
    assert registry.take_back(mine) == (mine.files[0].path,)
    assert mine.files[0].path.read_bytes() == b"content"
    assert not final.exists()
    assert registry.take_back(mine) == ()  # it is there
    model = registry.add(mine)
    assert registry.take_back(mine) == ()  # it is a model's now
    assert model.path.read_bytes() == b"content"


def test_sweeping_looks_again(registry: Registry, tmp_path: Path) -> None:
    """What was garbage when it was listed may be a model, or in use, when it is deleted."""
    mine = came(tmp_path, "m", b"content")
    model = registry.add(mine)
    manifest = next(registry.manifests.iterdir())
    kept = {path: path.read_bytes() for path in (model.path, manifest)}
    registry.remove(model)
    for path, content in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with registry.lock("k"):
        pass
    partial = registry.partial("k", "label")
    partial.write_bytes(b"some")
    found = garbage(registry)
    assert {g.kind for g in found} == {"orphan", "manifest", "partial"}
    registry.add(replace(mine, files=(replace(mine.files[0], path=model.path),)))
    with registry.lock("k"):
        assert sweep(registry, found) == 0
        assert [g.kind for g in garbage(registry)] == []
    assert registry.resolve("org/m").path.read_bytes() == b"content"
    assert manifest.exists()
    assert sweep(registry, found) == 4


def test_partials_of_one_lock_and_their_names(registry: Registry) -> None:
    long = "モデル" * 100
    paths = {registry.partial("k", long, member) for member in ("", "a", "b")}
    assert len(paths) == 3
    assert all(len(path.name.encode()) < 200 for path in paths)
    for path in paths:
        path.write_bytes(b"x")
    with registry.lock("k"):
        assert garbage(registry) == ()
    assert len(garbage(registry)) == 3


def test_the_same_content_registered_again_keeps_its_file(
    registry: Registry, tmp_path: Path
) -> None:
    old = registry.add(came(tmp_path, "m", b"content"))
    new = registry.add(came(tmp_path, "m", b"content", extras={"template": "another"}))
    assert (new.path, new.path.read_bytes()) == (old.path, b"content")
