"""Killed at any moment, a command leaves a registry that works and has lost nothing finished."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from localllm.registry import Registry
from tests.conftest import Done
from tests.support.http_server import Fault
from tests.support.hub_server import HubServer
from tests.support.nursery import Nursery
from tests.support.tiny_models import tiny_llama

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork are POSIX")

Cli = Callable[..., Done]
KILLS = 7  # for each command
REPO = "org/m-GGUF"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Five models of about a megabyte."""
    folder = tmp_path_factory.mktemp("bodies")
    return [
        tiny_llama(folder / f"{n}.gguf", seed=n, dtype=dtype).read_bytes()
        for n, dtype in enumerate(("Q8_0", "F16", "Q4_K", "Q5_K", "Q8_0"))
    ]


@dataclass
class Ground:
    """A registry with finished models, and what must be true of it after every kill."""

    home: Path
    nursery: Nursery
    cli: Cli
    hub: HubServer
    bodies: list[bytes]
    finished: dict[str, set[str]] = field(default_factory=dict)  # name -> digests it may have

    @property
    def registry(self) -> Registry:
        return Registry(self.home)

    def put(self, name: str, body: bytes) -> None:
        """A model that is pulled to its end."""
        path = self.home.parent / "sources" / f"{name}.gguf"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(body)
        assert self.cli("pull", path).exit_code == 0
        path.unlink()
        self.finished[name] = {sha256(body)}

    def attack(
        self, command: Sequence[str], seed: int, prepare: Callable[[], None] = lambda: None
    ) -> None:
        """Kill `command` at KILLS moments spread over the time it takes, then let it end."""
        rng = random.Random(seed)
        prepare()
        assert self.nursery.run(command) == 0, Path(self.nursery.log).read_text()
        took = self.nursery.took_s
        for number in range(KILLS):
            prepare()
            self.nursery.kill(command, took * (number + rng.random()) / KILLS)
            self.check()
        prepare()
        assert self.nursery.run(command) == 0, Path(self.nursery.log).read_text()
        self.check()

    def check(self) -> None:
        for args in (("list",), ("verify", "--all")):
            done = self.cli(*args, "--json")
            assert done.exit_code == 0, done
        report = self.cli("doctor", "--offline", "--json").data
        assert not [
            c for c in report["checks"] if c["area"] == "registry" and c["status"] == "problem"
        ]
        models = {m.name: m for m in self.registry.models()}
        for name, digests in self.finished.items():
            assert name in models, f"{name} is lost"
            assert sha256(models[name].path.read_bytes()) in digests
        assert len(self.registry.measurements(models["kept"])) == 1
        with sqlite3.connect(self.registry.database.path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            assert not connection.execute("PRAGMA foreign_key_check").fetchall()
        connection.close()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(str(tmp_path_factory.mktemp("nursery") / "log")) as made:
        yield made


@pytest.fixture
def ground(
    home: Path, nursery: Nursery, cli: Cli, bodies: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ground]:
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        made = Ground(home, nursery, cli, hub, bodies)
        made.put("kept", bodies[0])
        made.registry.record(made.registry.resolve("kept"), "bench", {"tg_tps": 1.0})
        yield made


def test_pull(ground: Ground) -> None:
    """From a hub that takes its time, so that kills meet every stage; each one is resumed."""
    hub = ground.hub
    hub.add_repo(REPO, {"m-F16.gguf": ground.bodies[1]})
    hub.fail("/cdn/*", Fault(bytes_per_s=2e7), times=-1)

    def prepare() -> None:
        for model in ground.registry.models():
            if model.name == f"{REPO}:F16":
                ground.registry.remove(model)

    ground.attack(["pull", REPO], seed=1, prepare=prepare)
    assert ground.registry.resolve(REPO).path.read_bytes() == ground.bodies[1]


def test_pull_of_what_has_changed(ground: Ground) -> None:
    """The old state or the new one, and never neither."""
    first, second = ground.bodies[2:4]
    ground.hub.add_repo(REPO, {"m-Q4_K_M.gguf": first})
    assert ground.cli("pull", REPO).exit_code == 0
    ground.finished[f"{REPO}:Q4_K_M"] = {sha256(first), sha256(second)}
    commits = 0

    def prepare() -> None:
        nonlocal commits
        commits += 1
        body = (second, first)[commits % 2]
        ground.hub.add_repo(REPO, {"m-Q4_K_M.gguf": body}, commit=f"{commits:040x}")

    ground.attack(["pull", REPO], seed=2, prepare=prepare)


def test_rm(ground: Ground) -> None:
    """What shares its bytes with the removed model keeps them."""
    ground.put("twin", ground.bodies[1])

    def prepare() -> None:
        if "victim" not in ground.registry.names():
            ground.put("victim", ground.bodies[1])
            del ground.finished["victim"]

    ground.attack(["rm", "victim"], seed=3, prepare=prepare)


def test_cp(ground: Ground) -> None:
    def prepare() -> None:
        ground.registry.remove_alias("nick")

    ground.attack(["cp", "kept", "nick"], seed=4, prepare=prepare)
    assert ground.cli("path", "nick").exit_code == 0


def test_prune(ground: Ground) -> None:
    def prepare() -> None:
        for folder in ("models/hf/org/gone", "partial"):
            path = ground.home / folder / "some.0123456789abcdef.part"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"left over")
        (ground.home / "locks" / "0123456789abcdef.lock").touch()

    ground.attack(["prune", "--yes"], seed=5, prepare=prepare)
    assert ground.cli("prune", "--json").data["found"] == []


def test_quantize(ground: Ground) -> None:
    ground.put("source", ground.bodies[1])

    def prepare() -> None:
        for model in ground.registry.models():
            if model.name == "source:Q4_0":
                ground.registry.remove(model)

    ground.attack(["quantize", "source", "Q4_0"], seed=6, prepare=prepare)
    assert ground.registry.resolve("source:Q4_0").lineage is not None


@pytest.mark.parametrize("state", ["sound", "damaged"])
def test_rebuild(ground: Ground, state: str) -> None:
    for n in range(1, 4):
        ground.put(f"m{n}", ground.bodies[n])
    path = ground.registry.database.path
    damaged = _with_a_broken_page(path, "file")

    def prepare() -> None:
        if state == "damaged":
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            path.write_bytes(damaged)

    def check_damaged() -> None:
        """Before it is rebuilt a damaged index may be as damaged as it was."""
        if ground.cli("list").exit_code == 0:
            whole()
        else:
            assert ground.cli("rebuild").exit_code == 0
            whole()

    whole = ground.check
    if state == "damaged":
        ground.check = check_damaged  # type: ignore[method-assign]
    ground.attack(["rebuild"], seed=7, prepare=prepare)


def _with_a_broken_page(index: Path, table: str) -> bytes:
    """The index with the page of one table overwritten; the others can still be read."""
    with sqlite3.connect(index) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        page = connection.execute(query, (table,)).fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.close()
    content = bytearray(index.read_bytes())
    content[(page - 1) * size : page * size] = b"\xee" * size
    return bytes(content)


def test_import(ground: Ground) -> None:
    theirs = ground.home.parent / "theirs"
    theirs.mkdir()
    for n, body in enumerate(ground.bodies):
        (theirs / f"their-{n}.gguf").write_bytes(body)

    def prepare() -> None:
        for model in ground.registry.models():
            if model.name.startswith("their-"):
                ground.registry.remove(model)

    ground.attack(["import", "--from", str(theirs)], seed=8, prepare=prepare)
    assert len(list(theirs.iterdir())) == len(ground.bodies)


def test_ten_processes_pulling_listing_and_removing_at_once(ground: Ground) -> None:
    """Each of them a row of commands, on the same few models."""
    labels = ("Q8_0", "F16", "Q4_K_M")
    files = {f"m-{label}.gguf": ground.bodies[n] for n, label in enumerate(labels)}
    ground.hub.add_repo(REPO, {**files, "mmproj-F16.gguf": ground.bodies[4]})
    workers = []
    for seed in range(10):
        rng = random.Random(seed)
        choices = [
            *[["pull", f"{REPO}:{label}"] for label in labels * 2],
            *[["rm", f"{REPO}:{label}"] for label in labels],
            ["list"], ["show", f"{REPO}:F16"], ["cp", f"{REPO}:Q8_0", "nick"],
            ["prune", "--yes"], ["pull", REPO],
        ]  # fmt: skip
        workers.append([rng.choice(choices) for _ in range(8)])
    statuses = ground.nursery.together(workers)
    assert statuses == [0] * 10, Path(ground.nursery.log).read_text()
    ground.check()
    expected = {f"{REPO}:{label}": files[f"m-{label}.gguf"] for label in labels}
    for model in ground.registry.models():
        if model.name in expected:
            assert model.path.read_bytes() == expected[model.name]
    ground.cli("prune", "--yes")
    ground.check()
    for label in labels:
        assert ground.cli("pull", f"{REPO}:{label}").exit_code == 0
    assert json.loads(ground.cli("list", "--json").out)["ok"]


def test_ten_processes_on_a_home_that_is_not_there_yet(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    """They all make it."""
    fresh = tmp_path / "fresh"
    monkeypatch.setenv("LOCALLLM_HOME", str(fresh))
    paths = []
    for n, body in enumerate(ground.bodies):
        path = tmp_path / f"new-{n}.gguf"
        path.write_bytes(body)
        paths.append(path)
    workers = [[["pull", str(paths[n % 5])], ["list"]] for n in range(10)]
    assert ground.nursery.together(workers) == [0] * 10, Path(ground.nursery.log).read_text()
    assert {m.name for m in Registry(fresh).models()} == {f"new-{n}" for n in range(5)}
    assert cli("verify", "--all").exit_code == 0
