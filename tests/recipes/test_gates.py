"""The CI files: whole YAML, and their own script lines run on a tiny model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from localllm.registry import Registry

RECIPES = Path(__file__).parents[2] / "recipes"
FOLDER = Path(sys.executable).parent

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell script"),
    pytest.mark.skipif(
        not (FOLDER / "localllm").exists() and shutil.which("localllm") is None,
        reason="the localllm script is not installed",
    ),
]


def parsed(name: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    found: dict[str, Any] = yaml.safe_load((RECIPES / name).read_text(encoding="utf-8"))
    return found


def run(script: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{FOLDER}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", script], cwd=folder, env={**os.environ, "PATH": path, **env},
        capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip


def test_github(tiny_gguf: Path, tmp_path: Path, registry: Registry) -> None:
    workflow = parsed("gate_github.yml")
    assert workflow[True] == "pull_request"  # YAML 1.1 reads `on` so; GitHub does not
    job = workflow["jobs"]["gate"]
    steps = {step["name"]: step for step in job["steps"] if "name" in step}
    assert all("uses" in step or "run" in step for step in job["steps"])
    env = {
        **job["env"], "MODEL": str(tiny_gguf), "SIZES": "-p 16 -n 4 -r 2",
        "BASE_PYTHON": sys.executable, "GITHUB_STEP_SUMMARY": str(tmp_path / "step.md"),
    }  # fmt: skip
    done = run(steps["gate"]["run"], tmp_path, **env)
    assert done.returncode in (0, 5), done  # samples of a tiny model are mostly noise
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()[0]
    assert [case.get("name") for case in suite] == ["pp16", "tg4"]
    assert (suite.get("failures") == "0") == (done.returncode == 0)
    assert (tmp_path / "step.md").read_text() == (tmp_path / "gate.md").read_text()
    assert "pairs in turn" in (tmp_path / "gate.md").read_text()
    uploaded = job["steps"][-1]["with"]["path"].split()
    assert uploaded == ["gate.xml", "gate.md"]


def test_gitlab(tiny_gguf: Path, tmp_path: Path, registry: Registry) -> None:
    job = parsed("gate_gitlab.yml")["bench gate"]
    made = run(
        f'localllm pull "{tiny_gguf}" && localllm bench tiny -p 16 -n 4 -r 3 --json > base.json',
        tmp_path,
    )
    assert made.returncode == 0, made
    slow = json.loads((tmp_path / "base.json").read_text())
    for row in slow["data"][0]["rows"]:  # as if measured on something very slow
        row["samples_ts"] = [0.01, 0.0101, 0.0099, 0.01, 0.01]
        row["avg_ts"] = 0.01
        row["memory"] = []
    (tmp_path / "base.json").write_text(json.dumps(slow))
    env = {**job["variables"], "MODEL": str(tiny_gguf), "BASELINE": "base.json", "BUDGET": "1s"}
    done = run("\n".join(job["script"]), tmp_path, **env)
    assert done.returncode == 0, done
    assert ElementTree.parse(tmp_path / job["artifacts"]["reports"]["junit"]).getroot()[0].get(
        "failures"
    ) == "0"  # fmt: skip
    assert (tmp_path / job["artifacts"]["paths"][0]).read_text().startswith("### Benchmark gate")
