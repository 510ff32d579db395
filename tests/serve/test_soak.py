"""benchmarks/serve_soak.py, short: mixed requests with faults leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.conftest import HI, chain
from tests.support.tiny_models import tiny_chain, tiny_llama

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serve_soak.py"


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads and files in /proc")
def test_faulty_clients_leave_nothing_behind(tmp_path: Path) -> None:
    models = [tiny_llama(tmp_path / "tiny.gguf"), tiny_chain(tmp_path / "hi.gguf", chain(HI))]
    done = subprocess.run(
        [sys.executable, SCRIPT, *models, "--requests", "400", "--clients", "24", "--connections",
         "2000", "--prompts", "8", "--threads", "1", "--json"],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["good"]
    assert found["wrong"] == []
    # Two thousand at once: each was answered, or told to come back.
    answered = sum(n for kind, n in found["asked"].items() if kind.startswith("= "))
    assert answered > 2200
    assert found["asked"]["= right"] > 1000
