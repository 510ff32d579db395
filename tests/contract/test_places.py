"""A home with an odd name, and no network."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from localllm.registry import Registry
from tests.contract.test_disk import REPO, Cli, refused, whole
from tests.support.hub_server import HubServer


def test_a_home_with_spaces_quotes_and_japanese(
    shell: Cli, cli: Cli, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "it's my “models” モデル 100% #1"
    monkeypatch.setenv("LOCALLLM_HOME", str(place))
    body = tiny_gguf.read_bytes()
    with HubServer() as hub:
        hub.add_repo(REPO, {"私の model-F16.gguf": tiny_gguf})
        assert shell("pull", REPO, env={"HF_ENDPOINT": hub.url}).exit_code == 0
    whole(cli, f"{REPO}:F16", body)
    path = Path(shell("path", REPO).out.strip())
    assert (path.name, path.is_relative_to(place)) == ("私の model-F16.gguf", True)
    assert shell("show", path, cwd=tmp_path).exit_code == 0
    for args in (
        ("cp", REPO, "nick"), ("quantize", "nick", "Q4_0"), ("fit", "nick"), ("rebuild",),
        ("export", "nick", tmp_path / "out 出"), ("pull", path, "--dry-run"), ("rm", "nick"),
    ):  # fmt: skip
        assert cli(*args).exit_code == 0, args
    whole(cli, f"{REPO}:F16", body)
    (place / "registry.db").write_bytes(b"garbage" * 1000)
    assert cli("rebuild").exit_code == 0
    whole(cli, f"{REPO}:F16", body)


@pytest.mark.parametrize(
    "text", ["org/m:Q4_K_M", "ollama:m", "pypi:m", "http://127.0.0.1:1/m.gguf"]
)
def test_no_network(
    cli: Cli, text: str, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nowhere = "http://127.0.0.1:1"  # nobody listens there
    monkeypatch.setenv("HF_ENDPOINT", nowhere)
    monkeypatch.setenv("LOCALLLM_OLLAMA_REGISTRY", nowhere)
    (tmp_path / "pip.conf").write_text("")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_INDEX_URL", f"{nowhere}/simple")
    refused(cli, ("pull", text), "source_unreachable", 6)
    assert not home.exists()


def test_nothing_that_needs_no_network_asks_for_one(
    cli: Cli, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    began = time.monotonic()
    assert cli("pull", tiny_gguf).exit_code == 0
    for args in (("list",), ("show", "tiny"), ("fit", "tiny"), ("verify", "--all"), ("rebuild",)):
        assert cli(*args).exit_code == 0
    assert cli("show", "org/other").exit_code == 3
    assert time.monotonic() - began < 20
