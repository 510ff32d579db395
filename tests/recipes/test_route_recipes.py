"""The routing recipes, run and read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from localllm.registry import Registry
from localllm.route.deciding.asked import Asked
from localllm.route.deciding.decider import Decider
from localllm.route.pool.reading import parse_spec
from tests.route.answering import models
from tests.route.known import known

RECIPES = Path(__file__).parents[2] / "recipes"


def test_the_office() -> None:
    path = RECIPES / "route_office.toml"
    spec, _ = parse_spec(path.read_text(encoding="utf-8"), str(path))
    decider = Decider(spec, None)
    questions = {
        "この文章を要約してください": "japanese",
        "x" * 20_001: "big",
        "fix this Python function that parses a date": "code",
        "who was the first emperor?": "small",
    }
    for prompt, member in questions.items():
        assert decider.decide(Asked.of_text(prompt)).member == member
    contract = "please check this contract"
    assert decider.decide(Asked.of_text(contract)).member != "desk"
    assert decider.decide(Asked.of_text(f"{contract}\n\nnda.txt:\n```\nNDA\n```")).member == "desk"


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell script")
def test_two_models(registry: Registry, tmp_path: Path) -> None:
    models(registry, tmp_path / "staged")
    contrast = known(60)
    rows = zip(contrast.prompts, contrast.gap, contrast.domains, strict=True)
    lines = [{"prompt": p, "answer": "abcabc" if gap else "!!", "domain": d} for p, gap, d in rows]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = Path(sys.executable).parent
    if not (folder / "localllm").exists():
        pytest.skip("the localllm script is not installed")
    done = subprocess.run(
        ["sh", str(RECIPES / "route_two_models.sh"), "hi", "loop", str(prompts)],
        env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "TOKENS": "6",
             "LOCALLLM_N_CTX": "256"},
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    shown = json.loads(done.stdout.splitlines()[-1])["data"]
    assert shown["trained"] and shown["version"] == 3
    assert shown["figures"]["strong_share"] == pytest.approx(0.3, abs=0.05)
    assert "APGR" in (tmp_path / "two.html").read_text(encoding="utf-8")
