"""The contract with scripts, for every command: help, JSON, missing and damaged models, a
reader that goes away, no terminal, no home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm import cli as program
from localllm.registry import Model
from tests.conftest import Done

NAMES = [name for name, _ in program.leaves(program.COMMANDS)]

# Each command on a model that does not exist: arguments and the documented exit code.
MISSING: dict[str, tuple[list[str], int]] = {
    "pull": (["./nothing.gguf"], 3),
    "import": (["--from", "./nothing"], 3),
    "fit": (["nothing"], 3),
    "chat": (["nothing", "hi"], 3),
    "create": (["mine", "-f", "./nothing"], 3),
    "serve": (["nothing", "--port", "0"], 3),
    "endpoint add": (["far", "--url", "http://127.0.0.1:9"], 6),
    "endpoint show": (["nothing"], 3),
    "endpoint check": (["nothing"], 3),
    "endpoint rm": (["nothing"], 3),
    "chats show": (["77"], 3),
    "chats export": (["77", "out.md"], 3),
    "chats rm": (["77"], 3),
    "bench": (["nothing"], 3),
    "bench run": (["nothing"], 3),
    "bench history": (["nothing"], 3),
    "bench show": (["77"], 3),
    "bench export": (["77"], 3),
    "bench import": (["./nothing.json"], 3),
    "bench compare": (["77", "78"], 3),
    "bench gate": (["nothing", "--baseline", "77"], 3),
    "quantize": (["nothing", "Q4_0"], 3),
    "merge": (["nothing", "--lora", "nothing"], 3),
    "finetune": (["nothing", "--data", "./nothing.jsonl"], 3),
    "train": (["mine", "--data", "./nothing.jsonl"], 3),
    "imatrix": (["nothing"], 3),
    "convert": (["nothing"], 3),
    "quality": (["nothing"], 3),
    "show": (["nothing"], 3),
    "path": (["nothing"], 3),
    "cp": (["nothing", "other"], 3),
    "rm": (["nothing"], 3),
    "verify": (["nothing"], 3),
    "export": (["nothing", "out"], 3),
    "quickstart": (["--model", "./nothing.gguf"], 3),
    "route create": (["r", "--member", "a=nothing"], 3),
    "route show": (["nothing"], 3),
    "route rm": (["nothing"], 3),
    "route export": (["nothing", "out.zip"], 3),
    "route import": (["./nothing.zip"], 3),
    "route train": (["nothing", "--data", "./nothing.jsonl"], 3),
    "route calibrate": (["nothing", "--strong-share", "30%"], 3),
    "route eval": (["nothing"], 3),
    "route label": (["nothing", "--prompts", "./no.jsonl", "--out", "out.jsonl"], 3),
    "route ask": (["nothing", "hi"], 3),
    "route decide": (["nothing", "hi"], 3),
    "route explain": (["nothing", "hi"], 3),
    "route feedback": (["77", "good"], 3),
    "route retrain": (["nothing"], 3),
    "route rollback": (["nothing"], 3),
    "route report": (["nothing"], 3),
    "route inbox show": (["77"], 3),
    "route inbox answer": (["77", "yes"], 3),
    "route inbox approve": (["77"], 3),
    "route inbox edit": (["77"], 3),
}
# Commands that read the model itself, on a damaged one (exit 7).
DAMAGED: dict[str, list[str]] = {
    "pull": ["{path}"],
    "fit": ["{path}"],
    "chat": ["{path}", "hi"],
    "serve": ["{path}", "--port", "0"],
    "bench": ["{path}"],
    "bench run": ["{path}"],
    "quantize": ["{path}", "Q4_0"],
    "merge": ["{path}", "--lora", "{path}"],
    "finetune": ["{path}", "--data", "{path}"],
    "imatrix": ["{path}"],
    "quality": ["{path}"],
    "show": ["{path}"],
}
# Commands that end well in an empty home, without a model.
PLAIN: dict[str, list[str]] = {
    "list": [], "endpoint list": [], "route list": [], "route inbox list": [], "chats": [],
    "prune": [], "hardware": [], "doctor": ["--offline"],
}  # fmt: skip


def one_document(done: Done) -> dict[str, object]:
    document = json.loads(done.out)
    assert set(document) == {"schema", "command", "ok", "data", "warnings", "error"}
    assert document["schema"] == 1
    assert document["ok"] is (done.exit_code == 0)
    return document  # type: ignore[no-any-return]


def no_noise(done: Done) -> None:
    assert "Traceback" not in done.err
    assert "internal error" not in done.err
    assert "\x1b" not in done.out + done.err


@pytest.mark.parametrize("name", NAMES)
def test_help(cli: Callable[..., Done], name: str, home: Path) -> None:
    done = cli(*name.split(), "--help")
    assert done.exit_code == 0
    assert "--json" in done.out
    assert not home.exists()


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_exit_2(cli: Callable[..., Done], name: str) -> None:
    done = cli(*name.split(), "--no-such-option", "--json")
    assert done.exit_code == 2
    assert one_document(done)["data"] is None
    plain = cli(*name.split(), "--no-such-option")
    assert plain.exit_code == 2
    assert plain.err.startswith("error: ")
    assert len(plain.err.strip().splitlines()) == 2
    no_noise(plain)


@pytest.mark.parametrize("name", sorted(MISSING))
def test_a_missing_model(
    cli: Callable[..., Done], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    args, code = MISSING[name]
    done = cli(*name.split(), *args, "--json")
    assert done.exit_code == code
    error = one_document(done)["error"]
    assert isinstance(error, dict)
    assert "\n" not in error["message"]
    plain = cli(*name.split(), *args)
    assert plain.exit_code == code
    assert plain.err.splitlines()[0] == f"error: {error['message']}" or name == "quickstart"
    no_noise(plain)
    assert not (home / "registry.db").exists()


@pytest.mark.parametrize("name", sorted(DAMAGED))
@pytest.mark.parametrize("damage", ["truncated", "not a model", "lying header", "empty"])
def test_a_damaged_model(
    cli: Callable[..., Done], name: str, damage: str, tmp_path: Path, tiny_gguf: Path
) -> None:
    content = tiny_gguf.read_bytes()
    path = tmp_path / "damaged model 壊.gguf"
    path.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "not a model": b"MZ" + content[2:],
            "lying header": content[:8] + b"\xff" * 16 + content[24:],
            "empty": b"",
        }[damage]
    )
    done = cli(*name.split(), *[a.format(path=path) for a in DAMAGED[name]], "--json")
    assert done.exit_code == 7, done
    assert one_document(done)["error"]
    no_noise(done)


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_without_models(cli: Callable[..., Done], name: str, home: Path) -> None:
    done = cli(*name.split(), *PLAIN[name], "--json")
    assert done.exit_code in (0, 1)
    one_document(done)
    no_noise(done)
    assert not home.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes and descriptors")
@pytest.mark.parametrize("args", [["list"], ["show", "tiny"], ["path", "tiny"], ["--help"],
                                  ["verify", "tiny", "--json"], ["hardware"]])  # fmt: skip
def test_a_reader_that_goes_away(tiny_model: Model, args: list[str]) -> None:
    command = [sys.executable, "-m", "localllm", *args]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert closed.returncode == 0
    assert "Traceback" not in closed.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_device_is_one_line(tiny_model: Model) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "localllm", "list"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere"
)
def test_an_unwritable_home(shell: Callable[..., Done], tiny_gguf: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    done = shell("pull", tiny_gguf, env={"LOCALLLM_HOME": str(locked / "home")})
    assert done.exit_code == 1
    assert len(done.err.strip().splitlines()) == 2


def test_a_home_below_a_file(shell: Callable[..., Done], tiny_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    env = {"LOCALLLM_HOME": str(tmp_path / "file" / "home")}
    assert shell("list", env=env).exit_code == 0
    done = shell("pull", tiny_gguf, "--json", env=env)
    assert done.exit_code == 1
    assert done.json["error"]["kind"] == "home_unwritable"


def test_a_home_with_spaces_and_japanese(
    shell: Callable[..., Done], tiny_gguf: Path, tmp_path: Path
) -> None:
    env = {"LOCALLLM_HOME": str(tmp_path / "my models モデル")}
    assert shell("pull", tiny_gguf, env=env).exit_code == 0
    assert "モデル" in shell("path", "tiny", env=env).out
    assert shell("verify", "--all", env=env).exit_code == 0
