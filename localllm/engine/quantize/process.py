"""The process that quantizes, as its parent holds it: requests in, events out, failures plain."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from localllm.engine.ftypes import Ftype
from localllm.errors import DamagedFile, DiskFull, EngineError, LocalLLMError, UsageProblem


class QuantizeProcess:
    """`child`, started at once and killed by `close`."""

    def __init__(self) -> None:
        package_root = str(Path(__file__).resolve().parents[3])
        start = (
            f"import sys; sys.path.insert(0, {package_root!r}); "
            "from localllm.engine.quantize.child import main; main()"
        )
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._child = subprocess.Popen(
            [sys.executable, "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )

    def events(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What it reports of `request`, up to done or failed. Raises EngineError when it dies
        without saying why."""
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        with suppress(BrokenPipeError):  # it died at once: its exit code says more
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
        for line in child.stdout:
            event = json.loads(line)
            yield event
            if event["event"] in ("done", "failed"):
                return
        raise _crash(child.wait(), self._errors)

    def close(self) -> None:
        """Kill it, whatever it is at. More than once does nothing more."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdout, self._child.stdin, self._errors):
            with suppress(OSError):  # closing flushes, and the reader may be gone
                assert pipe is not None
                pipe.close()


def _crash(code: int, errors: IO[bytes]) -> EngineError:
    """One line on a child that died: its assertion if it printed one."""
    if code == -9:
        return EngineError(
            "the process that quantizes was killed",
            "most often memory ran out: a smaller --max-memory, or close other programs",
        )
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode("utf-8", "replace").splitlines()]
    telling = [line for line in lines if "llama.cpp gave up" in line or "what():" in line]
    why = telling[0].removeprefix("error: ") if telling else f"exit code {code}"
    return EngineError(f"llama.cpp crashed while quantizing: {why}")


def failure(
    source: Path, output: Path | None, recipe: Ftype, reason: str, damaged: bool
) -> LocalLLMError:
    """The error for llama.cpp's `reason`."""
    if "is different from tensor size" in reason:
        return UsageProblem(f"the importance matrix is of another model: {reason}")
    if "imatrix contains non-finite" in reason:
        return UsageProblem("the importance matrix holds values that are no numbers")
    if "imatrix" in reason or "importance matrix" in reason:
        return UsageProblem(
            f"{recipe.name} needs an importance matrix (imatrix)",
            "choose a recipe that does not, such as Q2_K, IQ3_XS or Q3_K_S",
        )
    if "requantizing from type" in reason:
        return UsageProblem(
            f"{source.name} is quantized already ({reason.split()[3]})",
            "start from F16 or BF16, or allow it: --allow-requantize",
        )
    if "regular expression" in reason or "regex" in reason or "Mismatched" in reason:
        return UsageProblem(f"a tensor pattern is no regular expression: {reason}")
    if "data validation failed" in reason:
        return EngineError(f"{source.name} has weights that {recipe.name} cannot hold: {reason}")
    if ("iostream error" in reason or "basic_ios::clear" in reason) and output is not None:
        free = shutil.disk_usage(output.parent).free
        if free < 1 << 26:
            return DiskFull(f"no room left in {output.parent} ({free} bytes free)")
        return EngineError(
            f"{output} cannot be written further, with {free} bytes free",
            "look for a quota or a limit on file sizes (ulimit -f)",
        )
    if damaged:
        return DamagedFile(f"{source.name} is damaged: {reason}", "localllm verify MODEL")
    return EngineError(f"llama.cpp could not quantize {source.name}: {reason}")
