"""Every recipe is run, on a tiny model."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from localllm.registry import Registry

RECIPES = Path(__file__).parents[2] / "recipes"
RUN = {"quantize_and_bench.sh", "fit_matrix.py"}


def test_every_recipe_is_run_here_and_opens_with_its_command() -> None:
    found = {p.name for p in RECIPES.iterdir() if p.is_file()}
    assert found == RUN
    for name in found:
        head = "".join((RECIPES / name).read_text(encoding="utf-8").splitlines(keepends=True)[:2])
        assert f"recipes/{name}" in head


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell script")
def test_quantize_and_bench(tiny_gguf: Path, registry: Registry) -> None:
    folder = Path(sys.executable).parent
    if not (folder / "localllm").exists() and shutil.which("localllm") is None:
        pytest.skip("the localllm script is not installed")
    done = subprocess.run(
        ["sh", str(RECIPES / "quantize_and_bench.sh"), str(tiny_gguf), "Q8_0", "Q4_0"],
        env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
             "P": "16", "N": "4", "R": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["model"] for row in rows] == ["tiny", "tiny:Q8_0", "tiny:Q4_0"]
    sizes = [row["size_bytes"] for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert all(row["pp16"] > 0 and row["tg4"] > 0 for row in rows)
    assert {m.name for m in registry.models()} == {"tiny", "tiny:Q8_0", "tiny:Q4_0"}


def test_fit_matrix(tiny_gguf: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(RECIPES / "fit_matrix.py"), str(tiny_gguf), "--gpu", "RTX 4090",
         "--ctx", "512"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert row["verdict"] == "all"
    assert row["layers_on_gpu"] == row["layers"] == "3"  # two and the output
    assert int(row["need_bytes"]) > tiny_gguf.stat().st_size
