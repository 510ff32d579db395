"""The recipes of merging, run on tiny models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Done
from tests.library.merging.adapters import random_pair, write_lora
from tests.support.tiny_models import tiny_llama

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize(
    ("recipe", "name"),
    [("merge_ties.yml", "base-ties:F16"), ("merge_slerp.toml", "between:Q8_0")],
)
def test_configurations(
    cli: Callable[..., Done],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    name: str,
) -> None:
    for seed, model in enumerate(("base", "first", "second")):
        tiny_llama(tmp_path / f"{model}.gguf", seed=seed, dtype="F16")
    monkeypatch.chdir(tmp_path)
    done = cli("merge", "--config", RECIPES / recipe, "--json")
    assert done.exit_code == 0, done
    assert done.data["name"] == name


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell script")
def test_merge_tuned(tmp_path: Path) -> None:
    folder = Path(sys.executable).parent
    if not (folder / "localllm").exists() and shutil.which("localllm") is None:
        pytest.skip("the localllm script is not installed")
    base = tiny_llama(tmp_path / "base.gguf", dtype="Q4_K")
    pairs = {"blk.0.attn_q.weight": random_pair(1, 256, 256, size=0.002)}
    lora = write_lora(tmp_path / "style.gguf", pairs)
    done = subprocess.run(
        ["sh", str(RECIPES / "merge_tuned.sh"), str(base), str(lora)],
        env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    row = json.loads(done.stdout)
    assert row["model"] == "base-style:Q5_K_M"
    assert 0.8 < row["kept"] < 1.25
