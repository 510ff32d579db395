"""The process that holds one side of a gate: a model with its context, and a sample on demand.

    python -m localllm.bench.comparing.gate_child

One JSON object a line, an answer to each:
    {"open": {"path", "setup", "test"}}  ->  {"opened": {"localllm", "llama_cpp", "n_threads"}}
             ("adapters": LoRA files, where there are any)
    {"sample": n}                        ->  {"ns": [n times], "other_cores": cores or null}
    either may answer                        {"error": {"class", "message", "hint"}}
It ends when stdin closes. The interpreter may be another one than the gate's (`--baseline-python`),
with an older localllm: what is said here only ever grows.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.errors import LocalLLMError, UsageProblem
from localllm.library.bench.case import BenchTest, Setup
from localllm.library.bench.restore import value_from

if TYPE_CHECKING:
    from localllm.engine.measure import BenchRunner
    from localllm.placement import Opened


class Side:
    """The open model of this process."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._opened: Opened | None = None
        self._runner: BenchRunner | None = None

    def open(
        self, path: str, setup: Setup, test: BenchTest, adapters: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Load the model under `setup`, make the test's context and warm up."""
        from localllm import __version__
        from localllm.engine.build import build_info
        from localllm.engine.measure import BenchRunner
        from localllm.engine.options import ContextOptions, LoadOptions
        from localllm.library.bench.sweep import plan_options
        from localllm.placement import open_model

        self._stack.close()
        self._opened = self._stack.enter_context(
            open_model(
                Path(path),
                plan_options(setup, test),
                load=LoadOptions(mmap=setup.mmap),
                context=ContextOptions(n_threads=setup.n_threads),
                force=True,
                adapters=[(Path(one), 1.0) for one in adapters],
            )
        )
        context = self._opened.context
        self._runner = BenchRunner(context, test.n_prompt, test.n_gen, test.n_depth)
        self._runner.warm_up()
        return {
            "localllm": __version__,
            "llama_cpp": build_info().commit,
            "n_threads": context.n_threads,
        }

    def sample(self, n: int) -> dict[str, Any]:
        """Nanoseconds of `n` repetitions. Who else computed meanwhile is looked at only where
        there are several: looking takes a few milliseconds."""
        if self._runner is None or self._opened is None:
            raise UsageProblem("nothing is open")
        if n == 1:
            return {"ns": [self._one(self._runner)], "other_cores": None}
        from localllm.library.bench.conditions.evidence import observe_opened

        with observe_opened(self._opened) as seen, seen.timed():
            took = [self._one(self._runner) for _ in range(n)]
        return {"ns": took, "other_cores": seen.evidence(1).other_cores}

    def _one(self, runner: BenchRunner) -> int:
        runner.prepare()
        return runner.run()

    def close(self) -> None:
        self._stack.close()


def main() -> None:
    """Answer until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    said = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    side = Side()
    for line in sys.stdin:
        said.write(json.dumps(_answer(side, json.loads(line))) + "\n")
        said.flush()
    side.close()


def _answer(side: Side, request: dict[str, Any]) -> dict[str, Any]:
    try:
        if "open" in request:
            wanted = request["open"]
            setup = value_from(Setup, wanted["setup"])
            test = value_from(BenchTest, wanted["test"])
            adapters = wanted.get("adapters", ())
            return {"opened": side.open(wanted["path"], setup, test, adapters)}
        return side.sample(int(request["sample"]))
    except LocalLLMError as e:
        return {"error": {"class": type(e).__name__, "message": e.message, "hint": e.hint}}
    except MemoryError:
        return {"error": {"class": "EngineError", "message": "no memory was left", "hint": None}}


if __name__ == "__main__":
    main()
