"""Routers on disk: versions, shared files, and an index that was lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from localllm.errors import NotFound, UsageProblem
from localllm.registry import Registry
from localllm.registry.routers import Routers
from localllm.registry.upkeep import rebuild

TEXT = 'description = "日本"\n'


def test_versions_share_what_they_learned(registry: Registry) -> None:
    store = Routers(registry)
    store.add("Mine", TEXT, made_by="create", new=True)
    second = store.add("mine", TEXT, made_by="train", learned={"a.npz": b"1", "b.npz": b"2"})
    third = store.add("MINE", TEXT, made_by="calibrate", like=second.current)
    assert (third.name, third.version, len(third.versions)) == ("Mine", 3, 3)
    assert third.current.learned == second.current.learned
    assert third.current.learned is not None
    assert (third.current.learned / "b.npz").read_bytes() == b"2"
    assert third.current.text().endswith(TEXT)
    assert store.use("mine", 1).current.sha256 is None
    with pytest.raises(NotFound, match="no version 9"):
        store.use("mine", 9)
    with pytest.raises(UsageProblem, match="already"):
        store.add("mine", TEXT, made_by="create", new=True)
    with pytest.raises(NotFound, match="near: Mine"):
        store.find("Mihne")
    store.remove("mine")
    assert store.list() == () and not list((registry.home / "routers").iterdir())


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
def test_descriptions_are_for_their_owner(registry: Registry) -> None:
    kept = Routers(registry).add("mine", TEXT, made_by="train", learned={"a.npz": b"1"})
    assert kept.current.learned is not None
    for path in (kept.current.path, kept.current.learned / "a.npz"):
        assert path.stat().st_mode & 0o077 == 0


def test_a_rebuilt_index_has_them_again(registry: Registry) -> None:
    store = Routers(registry)
    store.add("Mine", TEXT, made_by="create")
    store.add("mine", TEXT, made_by="train", learned={"a.npz": b"1"})
    before = store.find("mine")
    store.add("other", TEXT, made_by="create")
    (before.current.path.parent / "notes.toml").write_text("mine = 1\n")
    registry.database.path.write_bytes(b"SQLite format 3\0" + b"\xff" * 4000)
    for suffix in ("-wal", "-shm"):
        Path(f"{registry.database.path}{suffix}").unlink(missing_ok=True)
    rebuild(registry, lambda path: None)
    after = store.find("mine")
    assert (after.name, after.version) == ("Mine", 2)
    assert [v.sha256 for v in after.versions] == [v.sha256 for v in before.versions]
    assert after.current.made_at == pytest.approx(before.current.made_at, abs=0.01)
    assert [one.name for one in store.list()] == ["Mine", "other"]
