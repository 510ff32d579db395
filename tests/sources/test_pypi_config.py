"""pip's configuration, read by ourselves and compared with what pip itself says."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from localllm.errors import InvalidConfig
from localllm.sources.pip_config import (
    PipConfig,
    parse_pip_config,
    pip_files,
    read_pip_config,
)

needs_pip = pytest.mark.skipif(
    importlib.util.find_spec("pip") is None, reason="this environment has no pip to compare with"
)
unix = pytest.mark.skipif(sys.platform == "win32", reason="lays files where pip looks on Unix")


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment whose pip files all lie below tmp_path (but /etc/pip.conf)."""
    home = tmp_path / "home of お父さん"
    monkeypatch.setenv("HOME", str(home))
    kept = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "conf"),
        "XDG_CONFIG_DIRS": str(tmp_path / "xdg"),
    }


# `pip config list` names every file's value in newer pips, sorted by file: not which one wins.
ASK = """
import json
from pip._internal.configuration import Configuration

known = Configuration(isolated=False)
known.load()
keys = set()
for key, value in known.items():
    keys |= set(value) if isinstance(value, dict) else {key}
print(json.dumps({key: known.get_value(key) for key in keys}))
"""


def ask_pip(env: dict[str, str]) -> PipConfig:
    """What pip itself says, each value under its strongest section."""
    command = [sys.executable, "-c", ASK]
    done = subprocess.run(command, env=env, check=True, capture_output=True, encoding="utf-8")
    values: dict[str, dict[str, str]] = {"global": {}, "download": {}, ":env:": {}}
    for name, value in json.loads(done.stdout).items():
        section, _, key = name.partition(".")
        if section in values and value:
            values[section][{"default-timeout": "timeout"}.get(key, key)] = value
    return parse_pip_config({**values["global"], **values["download"], **values[":env:"]})


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@needs_pip
@unix
def test_files_and_variables_win_as_in_pip(tmp_path: Path, env: dict[str, str]) -> None:
    home = Path(env["HOME"])
    put(tmp_path / "xdg/pip/pip.conf", "[global]\ntimeout = 7\ncert = /global.pem\n")
    put(home / ".pip/pip.conf", "[global]\nproxy = legacy:1\ntimeout = 8\n")
    put(
        home / "conf/pip/pip.conf",
        "[global]\ntimeout = 9\nfind_links = /w1 /w2\ncert =\nindex-url = https://user/simple\n"
        "extra-index-url =\n    https://a/simple\n    https://b/simple\n[freeze]\nproxy=x\n",
    )
    env["PIP_CONFIG_FILE"] = str(
        put(tmp_path / "own.conf", "[download]\ntimeout = 11\n[global]\nno-index = yes\n")
    )
    env["PIP_TRUSTED_HOST"] = "h1 h2:8080"
    env["PIP_PROXY"] = ""  # empty is not given
    env["PIP_FIND_LINKS"] = "/from-env"

    config = read_pip_config(env)
    assert config == ask_pip(env)
    assert (config.indexes, config.find_links) == ((), ("/from-env",))
    # the user's own files do not count beside PIP_CONFIG_FILE
    assert (config.timeout_s, config.proxy, config.trusted_hosts) == (11.0, None, ("h1", "h2:8080"))
    assert config.cert is not None

    del env["PIP_CONFIG_FILE"], env["PIP_FIND_LINKS"]
    config = read_pip_config(env)
    assert config == ask_pip(env)
    assert config.indexes == ("https://user/simple", "https://a/simple", "https://b/simple")
    assert (config.find_links, config.timeout_s) == (("/w1", "/w2"), 9.0)
    assert (config.proxy, config.cert) == ("http://legacy:1", None)  # cert is emptied


@needs_pip
def test_this_machine_is_read_as_pip_reads_it() -> None:
    assert read_pip_config(os.environ) == ask_pip(dict(os.environ))


def test_variables_alone(env: dict[str, str]) -> None:
    env |= {"PIP_INDEX_URL": "https://here/simple", "PIP_CONFIG_FILE": os.devnull}
    env |= {"PIP_QUIET": "3", "PIP_EXTRA_INDEX_URL": "https://here/simple https://b/simple"}
    config = PipConfig(indexes=("https://here/simple", "https://b/simple"))
    assert read_pip_config(env) == config


def test_dev_null_switches_files_off(env: dict[str, str]) -> None:
    assert pip_files({**env, "PIP_CONFIG_FILE": os.devnull}) == ()
    assert pip_files(env) != ()


def test_nothing_configured_is_pypi() -> None:
    assert parse_pip_config({}).indexes == ("https://pypi.org/simple",)


@pytest.mark.parametrize("timeout", ["soon", "-1", "0", "nan"])
def test_a_timeout_that_is_none(timeout: str) -> None:
    with pytest.raises(InvalidConfig, match="timeout"):
        parse_pip_config({"timeout": timeout})


@unix
def test_a_broken_file_is_named(tmp_path: Path, env: dict[str, str]) -> None:
    path = put(tmp_path / "own.conf", "no section here\n")
    with pytest.raises(InvalidConfig) as caught:
        read_pip_config({**env, "PIP_CONFIG_FILE": str(path)})
    assert str(path) in caught.value.message and "\n" not in caught.value.message
