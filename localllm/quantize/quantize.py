"""Make a model smaller, and register what came out with what it was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import EngineError
from localllm.library.derive import (
    checked_name,
    derived_name,
    existing,
    register_derived,
    require_room,
)
from localllm.library.growing import GrowingDigest, digest_of
from localllm.library.lineage import lineage_metadata
from localllm.library.writeback import WriteBack
from localllm.quantize.importance import check_importance, importance_file
from localllm.quantize.made_with import lineage_of
from localllm.quantize.plan import (
    Plan,
    Request,
    engine_options,
    headers_of,
    make_plan,
    sized,
)
from localllm.quantize.recipe import Scalar
from localllm.quantize.result import Quantized, result_of, reused
from localllm.quantize.source import Source
from localllm.registry import Lineage, Model, Registry
from localllm.ui import Progress

if TYPE_CHECKING:
    from localllm.engine.quantize.quantize import Quantizer, TensorPlan
    from localllm.formats.gguf.rewrite import NewHeader


def preview(source: Source, request: Request, progress: Progress) -> Quantized:
    """What `quantize` would make, to the byte; writes nothing.

    Raises UsageProblem, DamagedFile, EngineError as `quantize` would.
    """
    from localllm.engine.quantize.quantize import Quantizer

    if request.importance is not None:
        check_importance(request.importance, source)
    with Quantizer() as quantizer:
        plan = make_plan(source, request, quantizer)
    plan = priced(plan, source, request, progress)
    return result_of(None, _name(source, request), source, request, plan, 0.0)


def priced(plan: Plan, source: Source, request: Request, progress: Progress) -> Plan:
    """`plan` with the exact sizes of the files that `quantize` would write."""
    # the digest of a file that was never hashed has a known length
    lineage = lineage_of(source, request, progress, hash_parent=False)
    metadata = _metadata(source, request, made_by(plan, lineage))
    return sized(plan, headers_of(plan, source, request, metadata))


def quantize(
    source: Source,
    request: Request,
    registry: Registry,
    progress: Progress,
    note: Callable[[str], None],
) -> Quantized:
    """Quantize `source` as requested and register the result with its lineage.

    What was made the same way before is reused. The result appears in the registry only when
    it is complete; interrupted or killed, nothing is left under a final name. Raises
    UsageProblem (unknown type, quantized source without `allow_requantize`, importance matrix
    missing or of another model), DamagedFile (also a source that changes meanwhile), DiskFull,
    EngineError.
    """
    from localllm.engine.quantize.quantize import Quantizer

    if request.importance is not None:
        check_importance(request.importance, source)
    name = _name(source, request)
    lineage = lineage_of(source, request, progress)
    if (model := existing(registry, name, lineage)) is not None:
        return reused(model, source, request)
    with Quantizer() as quantizer:
        plan = make_plan(source, request, quantizer)
        lineage = made_by(plan, lineage)
        metadata = _metadata(source, request, lineage)
        headers = headers_of(plan, source, request, metadata)
        plan = sized(plan, headers)
        key = f"quantize {name} {lineage.parents} {sorted(lineage.parameters.items())}"
        with registry.lock(key, lambda: note(f"another process makes {name}; waiting for it")):
            if (model := existing(registry, name, lineage)) is not None:
                return reused(model, source, request)
            stem = registry.partial(key, name.replace("/", "-"))
            _remove(stem)  # what a killed process left
            require_room(stem.parent, plan.size_bytes)
            try:
                made, took = _run(
                    quantizer, source, request, stem, metadata, headers, progress, plan
                )
                source.check_unchanged()
                model = register_derived(registry, source.model, made, name, lineage)
            finally:
                _remove(stem)
    return result_of(model, model.name, source, request, plan, took)


def made_already(
    source: Source, request: Request, registry: Registry, lineage: Lineage
) -> Model | None:
    """What `quantize` would reuse."""
    return existing(registry, _name(source, request), lineage)


def searched_before(
    source: Source, request: Request, registry: Registry, progress: Progress
) -> Model | None:
    """What a search for the same, with the same importance, text and pins, made of `source`."""
    wanted = lineage_of(source, request, progress)
    for model in registry.models():
        made = model.lineage
        if (
            made is not None
            and (made.operation, made.parents) == (wanted.operation, wanted.parents)
            and made.parameters.get("search") == wanted.parameters["search"]
            and dict(made.inputs) == dict(wanted.inputs)
            and request.name in (None, model.name)
            and all(file.path.exists() for file in model.files)
        ):
            return model
    return None


def _name(source: Source, request: Request) -> str:
    if request.name is None:
        return derived_name(source.model, request.recipe.type)
    return checked_name(request.name)


def made_by(plan: Plan, lineage: Lineage) -> Lineage:
    """`lineage` with the llama.cpp that made the plan and will make the file."""
    return replace(lineage, versions={**lineage.versions, "llama.cpp": plan.llama_commit})


def _metadata(source: Source, request: Request, lineage: Lineage) -> dict[str, Scalar]:
    weighted = request.importance.metadata() if request.importance is not None else {}
    return {**weighted, **lineage_metadata(lineage, source.gguf)}


def _run(
    quantizer: Quantizer,
    source: Source,
    request: Request,
    stem: Path,
    metadata: Mapping[str, Scalar],
    headers: Sequence[NewHeader],
    progress: Progress,
    plan: Plan,
) -> tuple[list[tuple[Path, str]], float]:
    """Write and check the files; give them with their digests, and the seconds it took."""
    label = f"quantize {plan.type}"
    hashed = GrowingDigest(stem, headers[0].raw)  # of shards, the first's name is not `stem`
    with WriteBack(stem) as behind:
        with progress.bytes(label, plan.before_bytes) as advance, importance_file(
            request.importance
        ) as importance:  # fmt: skip

            def on_tensor(tensor: TensorPlan) -> None:
                advance(tensor.before_bytes)
                behind.wrote(tensor.after_bytes)
                hashed.follow()

            options = engine_options(source, request, metadata, importance)
            report = quantizer.quantize(source.path, stem, options, on_tensor)
        _check_written(report.outputs, plan)
        behind.begin()  # the rest of it, while it is hashed
        made = []
        with progress.bytes("checksum", plan.size_bytes) as advance:
            for path in report.outputs:
                whole = hashed.finish(advance) if path == stem else digest_of(path, advance)
                made.append((path, whole))
        behind.wait()
    return made, report.elapsed_s


def _check_written(paths: Sequence[Path], plan: Plan) -> None:
    """That the files are whole and hold the tensors planned: llama.cpp writes through a C++
    stream, which can lose its last bytes on a full disk without a word."""
    from localllm.formats.gguf import read_model

    written = tuple(path.stat().st_size for path in paths)
    types = {t.name: t.type.name.lower() for t in read_model(list(paths)).tensors.values()}
    if written != plan.file_bytes or types != {t.name: t.to_type.lower() for t in plan.tensors}:
        raise EngineError(
            f"llama.cpp wrote {sum(written)} bytes where {plan.size_bytes} were planned; "
            "the result was thrown away",
            "look whether the disk is full, then run the same command again",
        )


def _remove(stem: Path) -> None:
    for path in [stem, *stem.parent.glob(f"{_literal(stem.name)}-?????-of-?????.gguf")]:
        path.unlink(missing_ok=True)


def _literal(name: str) -> str:
    """`name` for a glob that matches it alone."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
