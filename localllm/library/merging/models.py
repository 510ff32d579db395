"""Whole models merged into one.

    made = merge_models(spec, find, ModelsRequest(type="Q6_K"), registry, progress, note)

GGUF models give a GGUF, safetensors folders a safetensors folder. Tensors are computed one after
the other, a few rows at a time: memory does not grow with the models.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from localllm.errors import DamagedFile, GateFailed, UsageProblem
from localllm.library.derive import existing, parent_of, with_digest
from localllm.library.merging.choosing import kept
from localllm.library.merging.jobs import Planned
from localllm.library.merging.naming import (
    ALLOW_LOSS,
    models_command,
    models_name,
    models_parameters,
)
from localllm.library.merging.pipeline import Workers
from localllm.library.merging.spec import Spec
from localllm.library.merging.survival import Survival
from localllm.library.stamp import Stamp
from localllm.registry import Lineage, Model, Registry
from localllm.ui import Progress

Note = Callable[[str], None]


@dataclass(frozen=True)
class ModelsRequest:
    """`type` None: the widest float type among the models, at least F16 (GGUF), or each tensor's
    own (safetensors). `command` is the command line, for the lineage."""

    type: str | None = None
    name: str | None = None
    imatrix: Path | None = None
    allow_loss: bool = False
    n_threads: int = 0
    command: str = "localllm merge"


@dataclass(frozen=True)
class ModelsMerge:
    """What a form is made of: the specification, and its models by the names that it uses."""

    spec: Spec
    models: Mapping[str, Model]
    request: ModelsRequest
    registry: Registry
    progress: Progress
    note: Note


@dataclass(frozen=True)
class TypeSum:
    """Tensors of the result that are stored as `type`."""

    type: str
    tensors: int
    size_bytes: int


@dataclass(frozen=True)
class MergedModels:
    """What was made, or (`model` None) would be. `file_bytes` is exact beforehand.

    `survival` is of the difference to the base (or the first model) where the result is stored
    in fewer bits than it is computed in; None beforehand, for F32 and for stacked layers.
    `layers`: for each layer of the result, the model and layer that it (or its base) comes from.
    """

    model: Model | None
    name: str
    method: str
    models: tuple[str, ...]
    base: str | None
    type: str
    format: str
    reused: bool
    file_bytes: int
    n_layers: int
    layers: tuple[tuple[str, int], ...]
    types: tuple[TypeSum, ...]
    survival: Survival | None
    elapsed_s: float


class Form(Protocol):
    """One format's side of a merge: planning, sizes and writing. See `ggufmodels`, `hfmodels`."""

    type: str
    format: str
    planned: Planned

    def sizes(self, lineage: Lineage | None) -> int: ...

    def types(self) -> tuple[TypeSum, ...]: ...

    def write(self, lineage: Lineage, key: str, workers: Workers) -> Survival | None: ...

    def register(self, name: str, lineage: Lineage) -> Model: ...

    def inputs(self) -> Mapping[str, str]: ...

    def llama_commit(self) -> str: ...

    def discard(self) -> None: ...

    def close(self) -> None: ...


def merge_models(
    spec: Spec,
    found: Mapping[str, Model],
    request: ModelsRequest,
    registry: Registry,
    progress: Progress,
    note: Note,
    *,
    dry_run: bool = False,
) -> MergedModels:
    """Merge as `spec` says the models that it names (`found`, by those names).

    What was made the same way before is reused. Raises UsageProblem where the models cannot be
    merged (architecture, sizes, vocabulary, hyper-parameters: the message says which), where a
    parameter is missing or the result overflows its type; GateFailed where the type would lose
    what was merged; DamagedFile (also a source that changes meanwhile), DiskFull, EngineError.
    """
    from localllm.library.merging.landing import merged_lineage

    begun = time.perf_counter()
    models = {name: found[name] for name in spec.models}
    if not dry_run:
        models = {name: with_digest(model, progress) for name, model in models.items()}
    stamps = [Stamp.of(f.path) for model in models.values() for f in model.weights]
    with ExitStack() as stack:
        form = _form(ModelsMerge(spec, models, request, registry, progress, note))
        stack.callback(form.close)
        lineage = merged_lineage(
            [_parent(model, progress, dry_run) for model in models.values()],
            models_command(request), models_parameters(spec, models, form.type), form.inputs(),
            form.llama_commit(),
        )  # fmt: skip
        name = models_name(spec, models, form.type, request)
        result = _result(spec, models, form, name, lineage)
        if dry_run:
            return result
        key = f"merge {name} {lineage.parents} {sorted(map(str, lineage.parameters.items()))}"
        waiting = f"another process makes {name}; waiting for it"
        with registry.lock(key, lambda: note(waiting)):
            if (model := existing(registry, name, lineage)) is not None:
                survival = _judged(model, form, lineage, key, request, stamps)
                return replace(result, model=model, name=model.name, survival=survival, reused=True)
            model, survival = _make(form, name, lineage, key, request, stamps)
    return replace(
        result,
        model=model,
        name=model.name,
        survival=survival,
        file_bytes=model.size_bytes,
        elapsed_s=time.perf_counter() - begun,
    )


def _make(
    form: Form,
    name: str,
    lineage: Lineage,
    key: str,
    request: ModelsRequest,
    stamps: Sequence[Stamp],
) -> tuple[Model, Survival | None]:
    """Write, check and register; on any failure nothing is left."""
    try:
        survival = _written(form, lineage, key, request, stamps)
        return form.register(name, lineage), survival
    finally:
        form.discard()


def _judged(
    model: Model,
    form: Form,
    lineage: Lineage,
    key: str,
    request: ModelsRequest,
    stamps: Sequence[Stamp],
) -> Survival | None:
    """What survives in `model`, which was made before, where that was never held against it: by
    computing it once more. None where it was."""
    made = model.lineage
    if request.allow_loss or made is None or ALLOW_LOSS not in shlex.split(made.command):
        return None
    try:
        return _written(form, lineage, key, request, stamps)
    finally:
        form.discard()


def _written(
    form: Form, lineage: Lineage, key: str, request: ModelsRequest, stamps: Sequence[Stamp]
) -> Survival | None:
    with Workers(request.n_threads) as workers:
        survival = form.write(lineage, key, workers)
    for stamp in stamps:
        stamp.check()
    _check_survival(survival, form.type, request)
    return survival


def _form(merge: ModelsMerge) -> Form:
    formats = {model.format for model in merge.models.values()}
    for name, model in merge.models.items():
        if model.format == "adapter":
            raise DamagedFile(
                f"{name} is no language model but an adapter",
                f"localllm merge BASE --lora {name} makes a model of it",
            )
        if model.format not in ("gguf", "safetensors"):
            raise DamagedFile(f"{name} is no language model but a {model.format} file")
    if len(formats) > 1:
        which = next(name for name, model in merge.models.items() if model.format == "safetensors")
        raise UsageProblem(
            "GGUF and safetensors models cannot be merged with each other",
            f"localllm convert {which}",
        )
    if formats == {"gguf"}:
        from localllm.library.merging.ggufmodels import GGUFForm

        return GGUFForm(merge)
    from localllm.library.merging.hfmodels import SafetensorsForm

    return SafetensorsForm(merge)


def _parent(model: Model, progress: Progress, dry_run: bool) -> tuple[str, str | None]:
    if dry_run and model.weights and model.weights[0].sha256 is None:
        return model.name, "0" * 64  # a digest's length is all that a plan needs
    return parent_of(model, progress)


def _check_survival(survival: Survival | None, kind: str, request: ModelsRequest) -> None:
    if survival is None or survival.share is None or request.allow_loss:
        return
    if kept(survival):
        return
    raise GateFailed(
        f"stored as {kind}, {survival.share * 100:.3g} % of what was merged in is left: the models "
        "lie on that type's grid already",
        "a wider --type (F16), or --allow-loss",
    )


def _result(
    spec: Spec, models: Mapping[str, Model], form: Form, name: str, lineage: Lineage
) -> MergedModels:
    return MergedModels(
        model=None,
        name=name,
        method=spec.method,
        models=tuple(model.name for model in models.values()),
        base=None if spec.base is None else models[spec.base].name,
        type=form.type,
        format=form.format,
        reused=False,
        file_bytes=form.sizes(lineage),
        n_layers=len(form.planned.layers),
        layers=form.planned.layers,
        types=form.types(),
        survival=None,
        elapsed_s=0.0,
    )
