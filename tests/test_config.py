"""flag > environment > config.toml > default."""

from __future__ import annotations

from pathlib import Path

import pytest

from localllm import config
from localllm.errors import InvalidConfig


def test_default_then_file_then_environment(tmp_path: Path) -> None:
    env = {"LOCALLLM_HOME": str(tmp_path)}
    assert config.load(env).threads is None
    (tmp_path / "config.toml").write_text('threads = 3\nollama_registry = "reg.example:5000/"\n')
    assert config.load(env).threads == 3
    assert config.load(env).ollama_registry == "https://reg.example:5000"
    assert config.load({**env, "LOCALLLM_THREADS": "5"}).threads == 5


def test_reading_creates_nothing(tmp_path: Path) -> None:
    home = tmp_path / "not there"
    assert config.load({"LOCALLLM_HOME": str(home)}).home == home
    assert not home.exists()


@pytest.mark.parametrize(
    "text", ["threads = 0", 'threads = "many"', "threads = true", "colour = 1", "threads = [",
             "offline = 3", "hf_endpoint = 'ftp://x'", "\udcff"],
)  # fmt: skip
def test_a_bad_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidConfig) as caught:
        config.load({"LOCALLLM_HOME": str(tmp_path)})
    assert str(file) in caught.value.message
    assert caught.value.exit_code == 2


def test_a_bad_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="LOCALLLM_THREADS"):
        config.load({"LOCALLLM_HOME": str(tmp_path), "LOCALLLM_THREADS": "-1"})


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("ON", True), ("0", False)])
def test_offline_words(tmp_path: Path, value: str, offline: bool) -> None:
    env = {"LOCALLLM_HOME": str(tmp_path), "HF_HUB_OFFLINE": value}
    assert config.load(env).offline is offline


def test_no_color_is_any_non_empty_value(tmp_path: Path) -> None:
    env = {"LOCALLLM_HOME": str(tmp_path)}
    assert config.load({**env, "NO_COLOR": "0"}).no_color
    assert not config.load({**env, "NO_COLOR": ""}).no_color


def test_a_broken_config_is_one_line_and_exit_2(cli, home: Path) -> None:  # type: ignore[no-untyped-def]
    home.mkdir()
    (home / "config.toml").write_text("nonsense")
    done = cli("list")
    assert done.exit_code == 2
    assert done.err.startswith("error: ")
    assert str(home / "config.toml") in done.err
