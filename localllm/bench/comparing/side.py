"""One side of a gate, measured in a process of its own: this program's, or another install's."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from localllm import config
from localllm import errors as known_errors
from localllm.closing import Closing
from localllm.engine.options import SPLIT_MODES, FlashAttention, SplitMode
from localllm.errors import EngineError, LocalLLMError, UsageProblem
from localllm.library.bench.case import BenchTest, Case, Setup
from localllm.library.bench.record import BenchRow

_FLASH: dict[int, FlashAttention] = {-1: "auto", 0: "off", 1: "on"}


@dataclass(frozen=True)
class Round:
    """Samples taken in a row. `other_cores`: what other processes kept busy, None unknown."""

    samples_ns: tuple[int, ...]
    other_cores: float | None


class Side(Closing):
    """A child process that holds a model (`gate_child`), with LoRA files attached to it. `python`
    is the interpreter whose localllm measures; None is this program itself."""

    def __init__(
        self, path: Path, python: Path | None = None, adapters: Sequence[Path] = ()
    ) -> None:
        self._path, self._python = path, python
        self._adapters = [str(one) for one in adapters]
        self.versions: dict[str, Any] = {}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        environment = {**config.environment(), "GGML_NO_BACKTRACE": "1"}
        environment.pop("PYTHONPATH", None)  # the other install must not find this one
        if self._python is None:
            environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[3])
        program = str(self._python or sys.executable)
        try:
            return subprocess.Popen(  # -P: not what lies in the current folder
                [program, "-P", "-m", "localllm.bench.comparing.gate_child"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
                text=True, encoding="utf-8", env=environment,
            )  # fmt: skip
        except OSError as e:
            raise UsageProblem(
                f"{program} cannot be run: {e.strerror or e}",
                "--baseline-python is the python of an environment that has localllm",
            ) from None

    def open(self, case: Case) -> None:
        """Load the model for `case` and warm up. Raises what loading raises."""
        setup, test = asdict(case.setup), asdict(case.test)
        wanted = {"path": str(self._path), "setup": setup, "test": test}
        if self._adapters:
            wanted["adapters"] = self._adapters
        self.versions = self._ask({"open": wanted})["opened"]

    def sample(self) -> int:
        """Nanoseconds of one repetition."""
        return int(self._ask({"sample": 1})["ns"][0])

    def round(self, n: int) -> Round:
        """`n` repetitions in a row (two at least, so that the machine is watched)."""
        answer = self._ask({"sample": max(2, n)})
        return Round(tuple(int(ns) for ns in answer["ns"]), answer["other_cores"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _known(answer["error"])
        return answer

    def _death(self) -> LocalLLMError:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
        if self._python is not None and "No module named" in last:
            return UsageProblem(
                f"{self._python} has no localllm that can be gated against: {last}",
                f"{self._python} -m pip install localllm",
            )
        return EngineError(f"the process that measured ended (status {status}): {last}")

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # what was still to be written to a dead child
        self._errors.close()


def case_of(row: BenchRow) -> Case:
    """The case that `row` was measured under, with what was decided then: threads, layers."""
    split = row.split_mode if row.split_mode in SPLIT_MODES else "layer"
    setup = Setup(
        n_gpu_layers=row.n_gpu_layers,
        n_cpu_moe=row.n_cpu_moe,
        split_mode=cast(SplitMode, split),
        main_gpu=row.main_gpu,
        tensor_split=_shares(row.tensor_split),
        n_batch=row.n_batch,
        n_ubatch=row.n_ubatch,
        n_threads=row.n_threads,
        type_k=row.type_k,
        type_v=row.type_v,
        flash_attn=_FLASH.get(row.flash_attn, "auto"),
        no_kv_offload=row.no_kv_offload,
    )
    return Case(setup, BenchTest(row.n_prompt, row.n_gen, row.n_depth))


def _shares(text: str) -> tuple[float, ...]:
    """llama-bench's "0.50/0.50"; "0.00" and nothing are no split."""
    try:
        shares = tuple(float(part) for part in text.split("/")) if text else ()
    except ValueError:
        return ()
    return shares if any(shares) else ()


def _known(problem: dict[str, Any]) -> LocalLLMError:
    kind = getattr(known_errors, str(problem["class"]), EngineError)
    error: LocalLLMError = kind(problem["message"], problem["hint"])
    return error
