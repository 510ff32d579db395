"""A program that ends without closing anything ends cleanly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions
from localllm.engine.scheduler import Request, Scheduler
from localllm.generation import Sampling

model = Model.load(Path(sys.argv[1]))
context = Context(model, ContextOptions(n_ctx=1024, n_seq_max=2, n_threads=1, kv_unified=True))
scheduler = Scheduler(context)
endless = Sampling(temperature=0.0)
answers = [scheduler.submit(Request([298, 104 + i], endless)) for i in range(5)]
print(next(answers[0].events()).token)
"""


def test_leaving_with_requests_under_way(llama_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(llama_path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().isdigit()
