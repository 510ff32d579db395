"""Quantize a GGUF model with llama.cpp, in a process of its own.

llama_model_quantize cannot be stopped, and asserts on some input end the process it runs
in. In a child (`quantize_child`), Ctrl-C is a kill and a crash is one line.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from localllm.engine.ftypes import Ftype, ftype, tensor_type
from localllm.engine.load import shards_of
from localllm.errors import (
    DamagedFile,
    DiskFull,
    EngineError,
    FileGone,
    LocalLLMError,
    UsageProblem,
)


@dataclass(frozen=True)
class QuantizeOptions:
    """What llama-quantize takes. `tensor_types` are (regular expression, type), first hit wins;
    the expression is searched, so anchor it: r"^blk\\.0\\.attn_v\\.weight$"."""

    ftype: str
    output_type: str | None = None
    token_embedding_type: str | None = None
    tensor_types: tuple[tuple[str, str], ...] = ()
    pure: bool = False  # one type for all tensors
    leave_output: bool = False  # keep output.weight as it is
    allow_requantize: bool = False  # from a source that is quantized already; loses quality
    keep_split: bool = False  # as many shards as the source has
    n_threads: int = 0  # 0 = all that the hardware has
    metadata: Mapping[str, int | float | bool | str] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorPlan:
    """One tensor on its way. `number` counts from 1 to `total`."""

    name: str
    shape: tuple[int, ...]
    from_type: str
    to_type: str
    before_bytes: int
    after_bytes: int
    number: int
    total: int


@dataclass(frozen=True)
class Fallback:
    """A tensor whose rows do not divide into the wanted type's blocks."""

    tensor: str
    wanted: str
    used: str
    row_length: int
    block_length: int


@dataclass(frozen=True)
class QuantizeReport:
    """What was made, or would be. Sizes are of tensor data; files add their header."""

    source: Path
    outputs: tuple[Path, ...]  # empty for a plan
    ftype: str
    tensors: tuple[TensorPlan, ...]
    fallbacks: tuple[Fallback, ...]
    before_bytes: int
    after_bytes: int
    n_params: int
    needs_imatrix: bool  # a plan only: this recipe cannot be made without one
    elapsed_s: float

    @property
    def bits_per_weight(self) -> float:
        return self.after_bytes * 8 / self.n_params if self.n_params else 0.0


OnTensor = Callable[[TensorPlan], None]


def plan_quantize(source: Path, options: QuantizeOptions) -> QuantizeReport:
    """Every tensor's type and size as `quantize` would make it; writes nothing. Seconds."""
    return _run(source, None, options, None)


def quantize(
    source: Path, output: Path, options: QuantizeOptions, on_tensor: OnTensor | None = None
) -> QuantizeReport:
    """Write `source` in another precision to `output`.

    `output` is a temporary path of the caller's: it is written in place, and removed when
    this fails or is interrupted. With `keep_split` it is the stem that llama.cpp appends
    "-00001-of-0000N.gguf" to. `on_tensor` comes after each tensor, in file order.
    Raises FileGone, DamagedFile, DiskFull, UsageProblem (unknown type, recipe that needs an
    importance matrix, source already quantized), EngineError.
    """
    if not output.parent.is_dir():
        raise FileGone(f"there is no folder {output.parent}")
    if output.exists() and any(output.samefile(file) for file in shards_of(source)):
        raise UsageProblem(f"{output} is the source itself")
    try:
        return _run(source, output, options, on_tensor)
    except BaseException:
        for file in _outputs(output, options.keep_split):
            if file.is_file():  # never a device that someone named
                file.unlink()
        raise


def _run(
    source: Path, output: Path | None, options: QuantizeOptions, on_tensor: OnTensor | None
) -> QuantizeReport:
    recipe = _check(source, options)
    begun = time.perf_counter()
    tensors: list[TensorPlan] = []
    fallbacks: list[Fallback] = []
    needs_imatrix = False
    for event in _events(_request(source, output, options, recipe)):
        if event["event"] == "tensor":
            plan = TensorPlan(**event["tensor"] | {"shape": tuple(event["tensor"]["shape"])})
            tensors.append(plan)
            if on_tensor is not None:
                on_tensor(plan)
        elif event["event"] == "fallback":
            fallbacks.append(Fallback(**event["fallback"]))
        elif event["event"] == "needs_imatrix":
            needs_imatrix = True
        elif event["event"] == "failed":
            raise _failure(source, output, recipe, event["reason"], event["damaged"])
    return QuantizeReport(
        source=source,
        outputs=tuple(_outputs(output, options.keep_split)) if output else (),
        ftype=recipe.name,
        tensors=tuple(tensors),
        fallbacks=tuple(fallbacks),
        before_bytes=sum(plan.before_bytes for plan in tensors),
        after_bytes=sum(plan.after_bytes for plan in tensors),
        n_params=sum(_elements(plan.shape) for plan in tensors),
        needs_imatrix=needs_imatrix,
        elapsed_s=time.perf_counter() - begun,
    )


def _check(source: Path, options: QuantizeOptions) -> Ftype:
    recipe = ftype(options.ftype)
    named = [
        options.output_type,
        options.token_embedding_type,
        *(t for _, t in options.tensor_types),
    ]
    for name in named:
        if name is not None:
            tensor_type(name)
    for file in shards_of(source):
        if not file.is_file():
            raise FileGone(f"there is no file {file}")
    return recipe


def _request(
    source: Path, output: Path | None, options: QuantizeOptions, recipe: Ftype
) -> dict[str, Any]:
    return asdict(options) | {
        "ftype": recipe.number,
        "copies": recipe.copies,
        "source": str(shards_of(source)[0]),
        "output": None if output is None else str(output),
    }


def _events(request: dict[str, Any]) -> Any:
    """Start the child, hand it the request, and yield what it reports; kill it on the way out.

    Raises EngineError when it dies without saying why it failed.
    """
    package_root = str(Path(__file__).resolve().parents[2])
    start = (
        f"import sys; sys.path.insert(0, {package_root!r}); "
        "from localllm.engine.quantize_child import main; main()"
    )
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
            last = "none"
            for line in child.stdout:
                event = json.loads(line)
                last = event["event"]
                yield event
            code = child.wait()
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
            _close_quietly(child.stdin)
        if last not in ("done", "failed"):
            raise EngineError(_crash(code, errors))


def _close_quietly(pipe: IO[str]) -> None:
    """Closing flushes, and the reader may be gone."""
    try:
        pipe.close()
    except OSError:
        return


def _crash(code: int, errors: IO[bytes]) -> str:
    """One line on a child that died: its assertion if it printed one."""
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode("utf-8", "replace").splitlines()]
    telling = [line for line in lines if "llama.cpp gave up" in line or "what():" in line]
    why = telling[0].removeprefix("error: ") if telling else f"exit code {code}"
    return f"llama.cpp crashed while quantizing: {why}"


def _failure(
    source: Path, output: Path | None, recipe: Ftype, reason: str, damaged: bool
) -> LocalLLMError:
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
    if "iostream error" in reason and output is not None:
        free = shutil.disk_usage(output.parent).free
        if free < 1 << 26:
            return DiskFull(f"no room left in {output.parent} ({free} bytes free)")
        return EngineError(f"cannot write {output}")
    if damaged:
        return DamagedFile(f"{source.name} is damaged: {reason}", "localllm verify MODEL")
    return EngineError(f"llama.cpp could not quantize {source.name}: {reason}")


def _outputs(output: Path, keep_split: bool) -> Sequence[Path]:
    if not keep_split:
        return [output] if output.exists() else []
    return sorted(output.parent.glob(f"{_escaped(output.name)}-?????-of-?????.gguf"))


def _escaped(name: str) -> str:
    """`name` for a glob that matches it literally."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def _elements(shape: tuple[int, ...]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product
