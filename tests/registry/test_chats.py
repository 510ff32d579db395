"""Conversations on disk: private, whole after each write, apart from the index."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.errors import NotFound, RegistryBroken
from localllm.registry import Registry
from localllm.registry.chats import ChangedMeanwhile, Chats, KeptMessage
from localllm.registry.history import InputHistory
from tests.conftest import Done

HELLO = (KeptMessage("user", "Grüße \ud800"), KeptMessage("assistant", "hi", {"model": "m"}))


def test_what_was_written_is_read(registry: Registry) -> None:
    chats = Chats.of(registry)
    number = chats.begin("m", "a title")
    chats.write(number, 0, HELLO, model="m")
    chats.write(number, 2, [KeptMessage("user", "look", {}, (b"\x89PNG", b"\xff"))], model="n")
    found = chats.messages(number)
    assert [m.content for m in found] == ["Grüße ?", "hi", "look"]
    assert found[1].data == {"model": "m"}
    assert found[2].attachments == (b"\x89PNG", b"\xff")
    kept = chats.find(number)
    assert (kept.title, kept.model, kept.n_messages) == ("a title", "n", 3)
    chats.write(number, 1, [KeptMessage("assistant", "again")], model="n", title="new")
    assert [m.content for m in chats.messages(number)] == ["Grüße ?", "again"]
    assert chats.find(number).title == "new"
    assert [c.id for c in chats.saying("AGAIN")] == [number]
    assert chats.saying("nowhere") == ()


def test_what_another_program_wrote_is_not_written_over(registry: Registry) -> None:
    one, other = Chats.of(registry), Chats.of(registry)
    number = one.begin("m", "x")
    read_at = one.write(number, 0, HELLO, model="m")
    assert other.find(number).changed_at == read_at
    later = other.write(number, 2, [KeptMessage("user", "more")], model="m", since=read_at)
    assert later > read_at
    with pytest.raises(ChangedMeanwhile):
        one.write(number, 2, [KeptMessage("user", "instead")], model="m", since=read_at)
    assert [m.content for m in one.messages(number)][2:] == ["more"]


def test_two_changes_are_never_of_one_time(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1.75e9)  # a clock that stands
    chats = Chats.of(registry)
    number = chats.begin("m", "x")
    times = [chats.write(number, 0, HELLO, model="m") for _ in range(3)]
    assert len({*times, chats.find(number).started_at}) == 4


def test_reading_makes_nothing(registry: Registry, home: Path) -> None:
    chats = Chats.of(registry)
    assert chats.list() == ()
    with pytest.raises(NotFound):
        chats.latest()
    assert InputHistory(registry).load() == []
    assert not home.exists()


def test_a_number_is_never_used_again(registry: Registry) -> None:
    chats = Chats.of(registry)
    first = chats.begin("m", "x")
    chats.write(first, 0, HELLO, model="m")
    chats.remove(first)
    assert chats.begin("m", "y") > first
    for call in (chats.find, chats.remove):
        with pytest.raises(NotFound):
            call(first)
    with pytest.raises(NotFound):
        chats.write(first, 0, HELLO, model="m")


def test_what_is_removed_is_gone_from_the_file(registry: Registry, home: Path) -> None:
    chats = Chats.of(registry)
    number = chats.begin("m", "x")
    secret = "a secret that nobody may read"
    chats.write(number, 0, [KeptMessage("user", secret)], model="m")
    chats.remove(number)
    content = b"".join(path.read_bytes() for path in home.glob("chats.db*"))
    assert secret.encode() not in content


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_only_its_owner_may_read_it(registry: Registry, home: Path) -> None:
    chats = Chats.of(registry)
    with chats.database.writing():
        files = [path for path in home.iterdir() if path.name.startswith("chats.db")]
        assert len(files) >= 2
        assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    InputHistory(registry).append("x")
    assert (home / "chat_history.jsonl").stat().st_mode & 0o777 == 0o600


def test_rebuilding_the_index_leaves_them(cli: Callable[..., Done], registry: Registry) -> None:
    chats = Chats.of(registry)
    chats.begin("m", "kept")
    assert cli("rebuild").exit_code == 0
    assert chats.latest().title == "kept"


def test_a_damaged_file_is_named(registry: Registry, home: Path) -> None:
    home.mkdir()
    (home / "chats.db").write_bytes(b"no database" * 100)
    with pytest.raises(RegistryBroken, match=r"chats\.db"):
        Chats.of(registry).list()


def test_a_newer_file_is_left_alone(registry: Registry, home: Path) -> None:
    Chats.of(registry).begin("m", "x")
    connection = sqlite3.connect(home / "chats.db")
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(RegistryBroken, match="newer"):
        Chats.of(registry).list()


def test_several_processes_write_history(registry: Registry, home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from localllm.registry import Registry;"
        "from localllm.registry.history import InputHistory;"
        "h = InputHistory(Registry(Path(sys.argv[1])));"
        "[h.append(f'{sys.argv[2]} {n}\\nsecond line') for n in range(200)]"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(home), str(n)]) for n in range(3)]
    assert [child.wait(timeout=60) for child in children] == [0, 0, 0]
    found = InputHistory(registry).load()
    assert sorted(found) == sorted(f"{c} {n}\nsecond line" for c in range(3) for n in range(200))


def test_history_stays_small_and_survives_damage(registry: Registry, home: Path) -> None:
    history = InputHistory(registry)
    for n in range(60):
        history.append(f"{n} " + "x" * 60_000)
    assert (home / "chat_history.jsonl").stat().st_size < 3 << 20
    assert history.load()[-1].startswith("59 ")
    with (home / "chat_history.jsonl").open("ab") as file:
        file.write(b"\xff{broken\n")
    history.append("after")
    assert history.load()[-1] == "after"
