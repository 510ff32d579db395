"""benchmarks/routing.py on made-up files, as an outsider runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from localllm.route.contrast import Contrast
from tests.route.known import known

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "routing.py"


def _write(path: Path, *parts: Contrast) -> Path:
    rows = []
    for part in parts:
        for i, prompt in enumerate(part.prompts):
            row = {
                "prompt": prompt,
                "source": part.benchmarks[i],
                "subject": part.domains[i],
                "weak_correct": int(part.weak[i]),
                "strong_correct": int(part.strong[i]),
            }
            if part.benchmarks[i] == "gsm8k":
                row |= {"weak_correct_fix": row["weak_correct"], "strong_correct_fix": 1}
            rows.append(json.dumps(row))
    path.write_text("\n".join(rows) + "\n")
    return path


def test_it_prints_every_figure_and_leaves_out_what_it_trained_on(tmp_path: Path) -> None:
    train = known(200, 0, "mmlu")
    files = (
        _write(tmp_path / "a.jsonl", train, known(60, 1, "gsm8k")),
        _write(tmp_path / "b.jsonl", known(300, 2, "mmlu"), known(90, 3, "gsm8k"), train),
    )
    done = subprocess.run(
        [sys.executable, SCRIPT, "--train", files[0], "--test", files[1]],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["n_train"] == 260 and found["n_test"] == 390
    assert found["n_test_also_in_training_left_out"] == 200
    for name in ("mmlu", "gsm8k", "gsm8k_fix", "transfer", "transfer_fix", "fix_trained"):
        value, low, high = found[name]["apgr"]
        assert low <= value <= high
    assert found["mmlu"]["n"] == 300 and found["mmlu"]["apgr"][1] > 0.55
    assert found["gsm8k"]["apgr"] == found["gsm8k_fix"]["apgr"]  # the labels are the same here
    assert found["decision_cpu_ms"]["p95"] > 0
    if find_spec("wordllama") is not None:
        assert found["embedded"]["decision_cpu_ms"]["p95"] > 0
        assert found["embedded"]["mmlu"]["n"] == 300
