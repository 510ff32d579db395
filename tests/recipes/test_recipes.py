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
from tests.conftest import arrival

RECIPES = Path(__file__).parents[2] / "recipes"
RUN = {
    "bench_ladder.sh", "finetune_chat.toml", "finetune_preferences.toml", "finetune_text.toml",
    "fit_matrix.py", "gate_github.yml", "gate_gitlab.yml", "nightly_bench.sh",
    "quantize_and_bench.sh", "quantize_ladder.sh", "route_office.toml",
    "route_two_models.sh",
    # tests/recipes/test_deploy.py
    "Dockerfile", "compose.yml", "compose_rpc.yml", "kubernetes.yaml", "kubernetes_rpc.yaml",
    "localllm-serve.service", "localllm-worker.service",
    # tests/finetune/scratch/test_train.py
    "train_small.toml",
    # tests/merge/test_recipes.py
    "merge_slerp.toml", "merge_ties.yml", "merge_tuned.sh",
}  # fmt: skip


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


def run_script(name: str, *args: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A shell recipe with the program that is installed beside this Python."""
    if sys.platform == "win32":
        pytest.skip("a POSIX shell script")
    folder = Path(sys.executable).parent
    if not (folder / "localllm").exists() and shutil.which("localllm") is None:
        pytest.skip("the localllm script is not installed")
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", str(RECIPES / name), *args], env={**os.environ, "PATH": path, **env},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_bench_ladder(tiny_gguf: Path, registry: Registry, tmp_path: Path) -> None:
    page = tmp_path / "my ladder.html"
    env = {"P": "16", "N": "4", "D": "0,8", "R": "2", "REPORT": str(page)}
    done = run_script("bench_ladder.sh", str(tiny_gguf), "Q8_0", "Q4_0", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(page)
    text = page.read_text(encoding="utf-8")
    for name in ("tiny", "tiny:Q8_0", "tiny:Q4_0", "pp16 @ d8"):
        assert name in text
    assert "Size and speed of generation" in text
    kept = registry.measurements_of_kind("bench")
    assert {m.data["tag"] for m in kept} == {"ladder"}
    assert len(kept) == 3


def test_quantize_ladder(registry: Registry, tmp_path: Path) -> None:
    from tests.support.quality_models import TEXT, base_model

    source, page, text = tmp_path / "my base.gguf", tmp_path / "my page.html", tmp_path / "t x.txt"
    base_model(source)
    text.write_text(TEXT, encoding="utf-8")
    env = {"REPORT": str(page), "TEXT": str(text), "CHUNKS": "2", "KEEP": "best",
           "IMATRIX": "none"}  # fmt: skip
    done = run_script("quantize_ladder.sh", str(source), "Q8_0", "Q4_0", env=env)
    assert done.returncode == 0, done.stderr
    chosen = done.stdout.strip()
    assert {m.name for m in registry.models()} == {"my-base", chosen}
    assert chosen.endswith(":Q8_0")
    assert "Quality and size" in page.read_text(encoding="utf-8")
    none = run_script("quantize_ladder.sh", str(source), "Q4_0", env={**env, "CTX": "400000000"})
    assert none.returncode == 4
    assert none.stderr.startswith("nothing fits")


def test_nightly_bench(tiny_gguf: Path, registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "my nights"
    env = {"FOLDER": str(folder), "BENCH": "-p 8 -n 4 -r 2"}
    model = registry.add(arrival("tiny", Path(shutil.copy(tiny_gguf, tmp_path)))).name
    for _ in range(2):
        done = run_script("nightly_bench.sh", model, env=env)
        assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["history.html", "last.json"]
    assert json.loads((folder / "last.json").read_text())["ok"] is True
    nights = registry.measurements_of_kind("bench")
    assert [(m.data["tag"], m.model) for m in nights] == [("nightly", model)] * 2
    assert "Token generation over time" in (folder / "history.html").read_text(encoding="utf-8")
    folder.joinpath("running").mkdir()
    assert "another run" in run_script("nightly_bench.sh", model, env=env).stderr
