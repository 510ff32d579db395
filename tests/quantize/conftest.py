"""A source and a ladder of it, made once; every test gets a copy of that home."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from localllm.registry import Registry
from tests.conftest import arrival
from tests.support.quality_models import TEXT, base_model

# one thread: see ONE_THREAD in tests.engine.conftest
TYPES = ("Q8_0", "Q4_0", "IQ2_XXS")  # the last one needs an importance matrix


@dataclass(frozen=True)
class Climbed:
    """`args` is the whole command line, `document` what it printed, `source` the file of the
    registered model `org/tiny`."""

    home: Path
    source: Path
    text: Path
    args: tuple[str, ...]
    document: Any

    @property
    def data(self) -> Any:
        return self.document["data"]


@pytest.fixture(scope="session")
def climbed_once(tmp_path_factory: pytest.TempPathFactory) -> Climbed:
    folder = tmp_path_factory.mktemp("ladder")
    text, home = folder / "text.txt", folder / "home"
    staged = base_model(folder / "staged.gguf")
    model = Registry(home).add(arrival("tiny", staged, file_name="tiny.gguf", file_type="F16"))
    text.write_text(TEXT, encoding="utf-8", newline="")
    args = ("quantize", model.name, *TYPES, "--ladder", "--imatrix", "none",
            "--measure-text", str(text))  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "localllm", *args, "--json"],
        env={**os.environ, "LOCALLLM_HOME": str(home)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    return Climbed(home, model.path, text, args, json.loads(done.stdout))


@pytest.fixture
def climbed(climbed_once: Climbed, home: Path) -> Climbed:
    """The ladder in this test's own home."""
    shutil.copytree(climbed_once.home, home)
    return climbed_once
