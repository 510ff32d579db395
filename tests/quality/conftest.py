"""A base, two candidates and a text, registered or as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Model, Registry
from tests.conftest import arrival
from tests.support.quality_models import TEXT, base_model, candidate

Stored = Callable[[str, Path], Model]


@pytest.fixture
def stored(registry: Registry, tmp_path: Path) -> Stored:
    """`stored("base", path)`: a copy of the file, registered as org/base."""

    def store(name: str, path: Path) -> Model:
        copy = tmp_path / f"staged-{name}.gguf"
        copy.write_bytes(path.read_bytes())
        return registry.add(arrival(name, copy, file_name=f"{name}.gguf", architecture="llama"))

    return store


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base.gguf, small.gguf, smaller.gguf and text.txt. Do not change them."""
    folder = tmp_path_factory.mktemp("quality")
    base_model(folder / "base.gguf")
    candidate(folder / "small.gguf", "Q8_0")
    candidate(folder / "smaller.gguf", "Q4_0")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8", newline="")
    return folder
