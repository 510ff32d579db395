"""Servers on loopback, each found by the settings that a user would set, and tiny models."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.http_server import FileServer
from tests.support.hub_server import HubServer
from tests.support.ollama_server import OllamaServer
from tests.support.pypi_server import PypiServer
from tests.support.tiny_models import llama_model, tiny_llama, tiny_lora


def sha256(data: bytes | Path) -> str:
    return hashlib.sha256(data if isinstance(data, bytes) else data.read_bytes()).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def ollama(monkeypatch: pytest.MonkeyPatch) -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        monkeypatch.setenv("LOCALLLM_OLLAMA_REGISTRY", server.url)
        yield server


@pytest.fixture
def pypi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PypiServer]:
    with PypiServer() as server:
        (tmp_path / "pip.conf").write_text("")  # the machine's own stays out
        monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
        monkeypatch.setenv("PIP_INDEX_URL", server.index_url)
        for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_CONSTRAINT"):
            monkeypatch.delenv(name, raising=False)
        yield server


@pytest.fixture
def web() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One model in several types, by label; `other` is another model, `new` a new state."""
    folder = tmp_path_factory.mktemp("models")
    types = {"Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K", "Q8_0": "Q8_0", "F16": "F16"}
    made = {
        label: tiny_llama(folder / f"{label}.gguf", dtype=dtype).read_bytes()
        for label, dtype in types.items()
    }
    made["new"] = tiny_llama(folder / "new.gguf", dtype="Q4_K", seed=9).read_bytes()
    made["other"] = tiny_llama(folder / "other.gguf", dtype="Q8_0", n_layer=5).read_bytes()
    made["lora"] = tiny_lora(folder / "lora.gguf").read_bytes()
    return made


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A model in three files, by file name."""
    folder = tmp_path_factory.mktemp("shards")
    paths = llama_model(dtype="Q8_0", seed=4).write_split(folder, "big-Q8_0", 3)
    return {path.name: path.read_bytes() for path in paths}
