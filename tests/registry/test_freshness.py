"""What was read counts until any process changes it, and not a moment longer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from localllm.registry import Registry
from localllm.registry.endpoints import Endpoints
from localllm.registry.freshness import Freshness

FAR = {"url": "http://127.0.0.1:9/v1", "model": "x"}


def aged(registry: Registry) -> None:
    """As if the last change was long ago."""
    for path in registry.home.glob("registry.db*"):
        os.utime(path, (1e9, 1e9))


def read(registry: Registry, fresh: Freshness) -> list[str]:
    with fresh.reading():
        return [one.name for one in Endpoints.of(registry).list()]


def test_nothing_was_read_yet(tmp_path: Path) -> None:
    assert not Freshness(Registry(tmp_path).database).holds()


def test_a_reading_holds_until_another_process_writes(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    Endpoints.of(registry).add("one", FAR)
    aged(registry)
    fresh = Freshness(registry.database)
    assert read(registry, fresh) == ["one"] and fresh.holds()
    code = (
        "import sys; from pathlib import Path; from localllm.registry import Registry;"
        "from localllm.registry.endpoints import Endpoints;"
        f"Endpoints.of(Registry(Path(sys.argv[1]))).add('two', {FAR!r})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert not fresh.holds()
    assert read(registry, fresh) == ["one", "two"]


def test_an_index_that_is_made_later(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    fresh = Freshness(registry.database)
    assert read(registry, fresh) == [] and fresh.holds()
    Endpoints.of(registry).add("one", FAR)
    assert not fresh.holds()


@pytest.mark.parametrize("open_too", [False, True])
def test_of_quick_changes_none_is_missed(tmp_path: Path, open_too: bool) -> None:
    """Several within one step of the clock that stamps files, of equal size; with another reader
    open they stay in the -wal file."""
    registry = Registry(tmp_path)
    endpoints = Endpoints.of(registry)
    endpoints.add("n0", FAR)
    fresh = Freshness(registry.database)

    def change_and_read() -> None:
        known = read(registry, fresh)
        for i in range(1, 25):
            endpoints.remove(f"n{(i - 1) % 10}")
            endpoints.add(f"n{i % 10}", FAR)
            known = known if fresh.holds() else read(registry, fresh)
            assert known == [f"n{i % 10}"]

    if not open_too:
        change_and_read()
        return
    with registry.database.reading() as connection:
        connection.execute("SELECT * FROM endpoint").fetchall()
        change_and_read()


def test_a_reading_that_failed_is_none(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    fresh = Freshness(registry.database)
    read(registry, fresh)
    with pytest.raises(ZeroDivisionError), fresh.reading():
        _ = 1 / 0
    assert not fresh.holds()


def test_it_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a disk does not show that a file was written."""
    fresh = Freshness(Registry(tmp_path).database)
    with fresh.reading():
        pass
    assert fresh.holds()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1.5)
    assert not fresh.holds()


def test_a_file_of_this_very_moment_proves_nothing(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    Endpoints.of(registry).add("one", FAR)
    fresh = Freshness(registry.database)
    for ahead_s, holds in ((5, False), (-5, True)):
        os.utime(registry.database.path, (time.time() + ahead_s,) * 2)
        read(registry, fresh)
        assert fresh.holds() is holds
