"""A full disk, a read-only one, odd paths, no network: one clear line each, nothing lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Done
from tests.support.http_server import Fault
from tests.support.hub_server import HubServer
from tests.support.tiny_models import tiny_llama

Cli = Callable[..., Done]
MIB = 1 << 20
REPO = "org/m-GGUF"


class Disk:
    """A small file system in memory, with the home on it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.home = top / "home"

    def fill(self) -> None:
        """To the last byte."""
        with (self.top / "ballast").open("ab", buffering=0) as file:
            for size in (MIB, 4096, 1):
                try:
                    while file.write(b"x" * size) == size:
                        pass
                except OSError:
                    continue

    def clear(self) -> None:
        (self.top / "ballast").unlink()

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.top).free

    def read_only(self) -> None:
        _mount("-o", "remount,ro", self.top)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """8 MiB. Needs Linux and root, as containers and CI machines have them."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root on Linux")
    top = tmp_path / "disk"
    top.mkdir()
    made = _mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", top)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    monkeypatch.setenv("LOCALLLM_HOME", str(top / "home"))
    try:
        yield Disk(top)
    finally:
        subprocess.run(["umount", "-l", str(top)], check=False)


def _mount(*args: object) -> subprocess.CompletedProcess[str]:
    command = ["mount", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def model(cli: Cli, tiny_gguf: Path, disk: Disk) -> str:
    """A finished model on the disk, of 2.6 MB."""
    assert cli("pull", tiny_gguf).exit_code == 0
    return "tiny"


def one_line(done: Done, code: int = 1) -> None:
    """One line that says what, and at most one that says what to do."""
    assert done.exit_code == code, done
    lines = [line for line in done.err.splitlines() if not line.startswith("warning: ")]
    assert lines[0].startswith("error: "), done
    assert len(lines) <= 2, done
    assert "Traceback" not in done.err
    assert "internal error" not in done.err


def refused(cli: Cli, args: tuple[object, ...], kind: str, code: int = 1) -> None:
    """For scripts and for people."""
    done = cli(*args, "--json")
    assert (done.exit_code, done.json["error"]["kind"]) == (code, kind), done
    one_line(cli(*args), code)


def whole(cli: Cli, name: str, body: bytes) -> None:
    """What only looks works, and the model is all there."""
    assert [m["name"] for m in cli("list", "--json").data if m["name"] == name] == [name]
    assert cli("show", name).exit_code == 0
    assert Path(cli("path", name).out.strip()).read_bytes() == body
    assert cli("verify", "--all").exit_code == 0


# --- a full disk ------------------------------------------------------------------------


def test_on_a_full_disk_everything_that_only_looks_works(
    cli: Cli, model: str, disk: Disk, tiny_gguf: Path
) -> None:
    disk.fill()
    assert disk.free_bytes == 0
    whole(cli, model, tiny_gguf.read_bytes())
    report = cli("doctor", "--offline", "--json")
    assert report.exit_code == 0
    assert any(c["area"] == "disk" and c["status"] == "warning" for c in report.data["checks"])


def test_on_a_full_disk_what_writes_says_so_and_loses_nothing(
    cli: Cli, model: str, disk: Disk, tiny_gguf: Path, tmp_path: Path, hub: HubServer
) -> None:
    body = tiny_gguf.read_bytes()
    other = tiny_llama(tmp_path / "other.gguf", seed=5)
    hub.add_repo(REPO, {"m-F16.gguf": other})
    disk.fill()
    for args in (
        ("pull", other), ("pull", "--in-place", other), ("pull", REPO), ("cp", model, "nick"),
        ("import", "--from", tmp_path), ("quantize", model, "Q4_0"), ("rebuild",),
        ("export", model, disk.top / "out"),
    ):  # fmt: skip
        refused(cli, args, "disk_full")
        whole(cli, model, body)
    disk.clear()
    assert cli("doctor", "--offline").exit_code == 0
    assert cli("pull", REPO).exit_code == 0
    whole(cli, model, body)


def test_room_can_be_made_on_a_full_disk(cli: Cli, model: str, disk: Disk) -> None:
    """Removing must not need the room that it is to make."""
    partial = disk.home / "partial" / "x.0123456789abcdef.part"
    partial.write_bytes(b"x" * 100_000)
    os.utime(partial, (1e9, 1e9))
    orphan = disk.home / "models" / "hf" / "org" / "m" / "orphan.gguf"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"x" * 50_000)
    disk.fill()
    done = cli("prune", "--yes", "--json")
    assert (done.exit_code, done.data["freed_bytes"]) == (0, 150_000)
    disk.fill()
    done = cli("rm", model, "--json")
    assert done.exit_code == 0, done
    assert disk.free_bytes > 2 * MIB
    assert cli("list", "--json").data == []
    assert [p for p in (disk.home / "models").rglob("*") if p.is_file()] == []


def test_an_orphan_alone_can_be_pruned_on_a_full_disk(cli: Cli, model: str, disk: Disk) -> None:
    orphan = disk.home / "models" / "orphan.gguf"
    orphan.write_bytes(b"x" * 50_000)
    disk.fill()
    assert cli("prune", "--yes", "--json").data["freed_bytes"] == 50_000
    assert cli("verify", "--all").exit_code == 0


def test_what_is_too_large_for_the_disk_is_not_begun(
    cli: Cli, model: str, disk: Disk, tiny_gguf: Path, hub: HubServer, tmp_path: Path
) -> None:
    large = tiny_llama(tmp_path / "large.gguf", n_embd=512, n_ff=1024, n_head=8, seed=2)
    assert large.stat().st_size > disk.free_bytes
    hub.add_repo(REPO, {"m-F16.gguf": large})
    refused(cli, ("pull", REPO), "disk_full")
    assert all(r.range_bytes for r in hub.matching("/cdn/*"))  # its header alone
    whole(cli, model, tiny_gguf.read_bytes())


def test_a_disk_that_fills_up_on_the_way(
    cli: Cli, model: str, disk: Disk, tiny_gguf: Path, hub: HubServer, tmp_path: Path
) -> None:
    """What has arrived is kept, and the same command goes on where there is room again."""
    other = tiny_llama(tmp_path / "other.gguf", seed=5, n_layer=3)
    size = other.stat().st_size
    hub.add_repo(REPO, {"m-F16.gguf": other})
    hub.fail("/cdn/*", Fault())
    hub.fail("/cdn/*", Fault(bytes_per_s=size / 3))
    command = [sys.executable, "-m", "localllm", "pull", REPO, "--progress", "none"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 30
    while hub.served_bytes("/cdn/*") < MIB + size * 2 // 3:
        assert time.monotonic() < until
        time.sleep(0.01)
    disk.fill()
    _, err = child.communicate(timeout=60)
    one_line(Done(child.returncode, "", err))
    assert "no room" in err
    whole(cli, model, tiny_gguf.read_bytes())
    disk.clear()
    done = cli("pull", REPO, "--json")
    assert done.exit_code == 0
    assert done.data["resumed_bytes"] > 0
    assert Path(cli("path", REPO).out.strip()).read_bytes() == other.read_bytes()


# --- a read-only home -------------------------------------------------------------------


def _only_looking(cli: Cli, model: str, body: bytes, other: Path, tiny_gguf: Path) -> None:
    whole(cli, model, body)
    assert cli("fit", model).exit_code == 0
    assert cli("prune").exit_code == 0
    assert cli("pull", tiny_gguf, "--json").data["reused"] is True  # it is here
    assert cli("pull", other, "--dry-run").exit_code == 0
    for args in (
        ("pull", other), ("pull", "--in-place", other), ("cp", model, "nick"), ("rm", model),
        ("import", "--from", other.parent), ("quantize", model, "Q4_0"), ("rebuild",),
    ):  # fmt: skip
        refused(cli, args, "home_unwritable")
    whole(cli, model, body)
    report = cli("doctor", "--offline", "--json")
    assert report.exit_code == 1
    assert "cannot be written" in report.json["error"]["message"]


def test_a_read_only_home(
    cli: Cli, model: str, disk: Disk, tiny_gguf: Path, tmp_path: Path
) -> None:
    other = tiny_llama(tmp_path / "other.gguf", seed=5)
    disk.read_only()
    _only_looking(cli, model, tiny_gguf.read_bytes(), other, tiny_gguf)


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_home_without_write_permission(
    cli: Cli, home: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    assert cli("pull", tiny_gguf).exit_code == 0
    other = tiny_llama(tmp_path / "other.gguf", seed=5)
    folders = [home, *(p for p in home.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        _only_looking(cli, "tiny", tiny_gguf.read_bytes(), other, tiny_gguf)
    finally:
        for folder in folders:
            folder.chmod(0o700)


def test_a_home_that_cannot_be_made(
    cli: Cli, disk: Disk, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.read_only()
    assert cli("list").exit_code == 0
    refused(cli, ("pull", tiny_gguf), "home_unwritable")
