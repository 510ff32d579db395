"""Make a model smaller, and register what came out with what it was made from."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm import __version__
from localllm.errors import DamagedFile, DiskFull, UsageProblem
from localllm.library.derive import (
    derived_name,
    digest_of,
    existing,
    parent_of,
    register_derived,
)
from localllm.library.lineage import lineage_metadata
from localllm.refs import ModelRef
from localllm.registry import Lineage, Model, Registry
from localllm.ui import Bytes, Progress

if TYPE_CHECKING:
    from localllm.engine.quantize import QuantizeOptions, QuantizeReport, TensorPlan


@dataclass(frozen=True)
class TypeChange:
    """How many tensors went from one type to another, and what they take now."""

    from_type: str
    to_type: str
    tensors: int
    before_bytes: int
    after_bytes: int


@dataclass(frozen=True)
class Quantized:
    """What was made, or (`model` None) would be. Sizes are of tensor data; the file adds its
    header. `fallbacks` are tensors whose shape the wanted type does not allow."""

    model: Model | None
    name: str
    source: str
    type: str
    reused: bool
    before_bytes: int
    after_bytes: int
    bits_per_weight: float
    changes: tuple[TypeChange, ...]
    fallbacks: tuple[str, ...]
    elapsed_s: float


def quantize(
    source: Model,
    options: QuantizeOptions,
    registry: Registry,
    progress: Progress,
    note: Callable[[str], None],
    *,
    name: str | None = None,
    dry_run: bool = False,
) -> Quantized:
    """Quantize `source` by `options` and register the result with its lineage.

    What was made the same way before is reused. The result appears in the registry only when
    it is complete; interrupted or killed, nothing is left under a final name. Raises
    UsageProblem (unknown type, quantized source without `allow_requantize`), DamagedFile,
    DiskFull, EngineError.
    """
    from localllm.engine.ftypes import ftype
    from localllm.engine.quantize import plan_quantize

    options = replace(options, ftype=ftype(options.ftype).name)
    name = _checked(name) if name else derived_name(source, options.ftype)
    lineage = _lineage(source, options, progress)
    if not dry_run and (model := existing(registry, name, lineage)) is not None:
        return _reused(model, source, options)
    plan = plan_quantize(source.path, options)
    _check(source, plan, options)
    if dry_run:
        return _result(None, name, source, plan)
    key = f"quantize {name} {lineage.parents} {sorted(lineage.parameters.items())}"
    with registry.lock(key, lambda: note(f"another process is making {name}; waiting for it")):
        if (model := existing(registry, name, lineage)) is not None:
            return _reused(model, source, options)
        made = registry.partial(key, name.replace("/", "-"))
        _check_space(made, plan)
        report, digest = _run(source, made, options, lineage, progress, plan)
        model = register_derived(registry, source, made, name, lineage, digest)
    return _result(model, model.name, source, report)


def _checked(name: str) -> str:
    ref = ModelRef.parse(name)
    if ref.scheme != "local" or ref.revision is not None:
        raise UsageProblem(f"{name!r} cannot be a model's name", "--name mine:Q4_K_M")
    return name


def _lineage(source: Model, options: QuantizeOptions, progress: Progress) -> Lineage:
    parameters: dict[str, Any] = {"type": options.ftype}
    for field in ("output_type", "token_embedding_type", "pure", "leave_output"):
        if value := getattr(options, field):
            parameters[field] = value
    words = ["localllm", "quantize", source.name, options.ftype]
    if options.allow_requantize:
        words.append("--allow-requantize")
    words += [w for k, v in parameters.items() if k != "type" for w in _flag(k, v)]
    versions = {"localllm": __version__, "llama_cpp_python": _binding_version()}
    return Lineage(
        "quantize", (parent_of(source, progress),), shlex.join(words), parameters, {}, versions
    )


_FLAGS = {
    "output_type": "--output-type",
    "token_embedding_type": "--embedding-type",
    "pure": "--pure",
    "leave_output": "--leave-output",
}


def _flag(name: str, value: Any) -> list[str]:
    return [_FLAGS[name]] if value is True else [_FLAGS[name], str(value)]


def _binding_version() -> str:
    from importlib.metadata import version

    return version("llama-cpp-python")


def _check(source: Model, plan: QuantizeReport, options: QuantizeOptions) -> None:
    if plan.needs_imatrix:
        raise UsageProblem(
            f"{options.ftype} needs an importance matrix, which this version cannot make yet",
            f"localllm quantize {source.name} Q3_K_S, or another type that needs none",
        )
    if not plan.tensors:
        raise DamagedFile(f"{source.name} has no tensors to quantize")


def _check_space(made: Path, plan: QuantizeReport) -> None:
    import shutil

    free = shutil.disk_usage(made.parent).free
    if free < plan.after_bytes:
        raise DiskFull(
            f"{made.parent} has {Bytes(free)} free, the result needs {Bytes(plan.after_bytes)}",
            "localllm prune, or set LOCALLLM_HOME to a larger disk",
        )


def _run(
    source: Model,
    made: Path,
    options: QuantizeOptions,
    lineage: Lineage,
    progress: Progress,
    plan: QuantizeReport,
) -> tuple[QuantizeReport, str]:
    from localllm.engine.quantize import quantize as run

    made.unlink(missing_ok=True)  # what a killed process left
    try:
        with progress.bytes(f"quantize {options.ftype}", plan.before_bytes) as advance:

            def on_tensor(tensor: TensorPlan) -> None:
                advance(tensor.before_bytes)

            marked = replace(options, metadata={**options.metadata, **lineage_metadata(lineage)})
            report = run(source.path, made, marked, on_tensor)
        with progress.bytes("checksum", made.stat().st_size) as advance:
            return report, digest_of(made, advance)
    except BaseException:
        made.unlink(missing_ok=True)
        raise


def _result(model: Model | None, name: str, source: Model, report: QuantizeReport) -> Quantized:
    return Quantized(
        model=model,
        name=name,
        source=source.name,
        type=report.ftype,
        reused=False,
        before_bytes=report.before_bytes,
        after_bytes=report.after_bytes,
        bits_per_weight=report.bits_per_weight,
        changes=_changes(report),
        fallbacks=tuple(f"{f.tensor}: {f.wanted} -> {f.used}" for f in report.fallbacks),
        elapsed_s=report.elapsed_s,
    )


def _reused(model: Model, source: Model, options: QuantizeOptions) -> Quantized:
    """The same facts from the headers of what is there."""
    from localllm.library import header_of

    before, after = header_of(source), header_of(model)
    return Quantized(
        model=model,
        name=model.name,
        source=source.name,
        type=options.ftype,
        reused=True,
        before_bytes=before.weights_bytes,
        after_bytes=after.weights_bytes,
        bits_per_weight=after.bits_per_weight or 0.0,
        changes=(),
        fallbacks=(),
        elapsed_s=0.0,
    )


def _changes(report: QuantizeReport) -> tuple[TypeChange, ...]:
    sums: dict[tuple[str, str], list[int]] = {}
    for t in report.tensors:
        row = sums.setdefault((t.from_type, t.to_type), [0, 0, 0])
        row[0] += 1
        row[1] += t.before_bytes
        row[2] += t.after_bytes
    ordered = sorted(sums.items(), key=lambda item: -item[1][1])
    return tuple(TypeChange(*types, *row) for types, row in ordered)
