"""One run: a source, and one result for each request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from localllm.library.derive import require_plain
from localllm.library.describe import header_of
from localllm.library.find import find_model, no_model
from localllm.library.imatrix import find_imatrix, make_imatrix
from localllm.quantize.convert_first import converted_source
from localllm.quantize.importance import Importance, chosen_words, pending_importance
from localllm.quantize.plan import Request, is_quantized, make_plan
from localllm.quantize.planfile import save_plan as write_plan
from localllm.quantize.quantize import preview, quantize
from localllm.quantize.requests import Given, importance_for, requests_for
from localllm.quantize.result import Quantized
from localllm.quantize.source import Source, hashed, open_source
from localllm.registry import Model, Registry
from localllm.ui import Sink


def run_all(
    model: str,
    given: Given,
    registry: Registry,
    sink: Sink,
    *,
    dry_run: bool = False,
    save_plan: Path | None = None,
) -> list[Quantized]:
    """Make (or with `dry_run` only plan) each request of `model` in turn.

    What is finished stays when a later one fails. Raises what `quantize` raises.
    """
    requests = requests_for(given)
    found = find_model(model, registry)
    names = [one.recipe.type for one in requests]
    with source_for(found, names, registry, sink, dry_run) as opened:
        source = opened if dry_run else hashed(opened, sink.progress)
        weights = importance_of(given, source, registry, sink, dry_run=dry_run)
        requests = tuple(replace(one, importance=weights) for one in requests)
        return make_each(source, requests, registry, sink, dry_run=dry_run, save_plan=save_plan)


def make_each(
    source: Source,
    requests: Sequence[Request],
    registry: Registry,
    sink: Sink,
    *,
    dry_run: bool = False,
    save_plan: Path | None = None,
) -> list[Quantized]:
    """Each request in turn, complete with its importance matrix."""
    done = []
    for request in requests:
        if save_plan is not None:
            save_planned(save_plan, source, request)
            sink.note(f"wrote {save_plan}")
        if dry_run:
            result = preview(source, request, sink.progress)
        else:
            result = quantize(source, request, registry, sink.progress, sink.note)
        warn_of(result, request, sink)
        done.append(result)
    return done


@contextmanager
def source_for(
    model: Model, types: Sequence[str], registry: Registry, sink: Sink, dry_run: bool
) -> Iterator[Source]:
    """The model itself if it is a GGUF; one of safetensors is converted first, for as long as
    the block runs. `types` are what is to be made of it, for the room that takes."""
    if model.format not in ("gguf", "safetensors", "mmproj"):
        raise no_model(model)
    require_plain(model, "a quantization of it")
    if model.format == "safetensors":
        with converted_source(model, types, registry, sink, dry_run=dry_run) as source:
            yield source
    else:
        yield open_source(model)


def save_planned(path: Path, source: Source, request: Request) -> None:
    """Write every tensor's type as a plan."""
    from localllm.engine.quantize.quantize import Quantizer

    with Quantizer() as quantizer:
        tensors = make_plan(source, request, quantizer).tensors
    types = {t.name: t.to_type.lower() for t in tensors if len(t.shape) > 1}
    write_plan(path, request.recipe, types)


def save_made(path: Path, model: Model, request: Request) -> None:
    """The same of a model that `request` made, from its file."""
    assert model.lineage is not None
    recipe = replace(request.recipe, type=model.lineage.parameters["type"])
    tensors = header_of(model).tensors
    types = {name: t.type.name.lower() for name, t in tensors.items() if len(t.shape) > 1}
    write_plan(path, recipe, types)


def importance_of(
    given: Given, source: Source, registry: Registry, sink: Sink, *, dry_run: bool
) -> Importance | None:
    """The importance matrix that was asked for, made where it has to be; a dry run plans with
    what stands for one that is not there yet."""
    if dry_run and given.imatrix == "auto" and find_imatrix(source.model, registry) is None:
        sink.note(f"no importance matrix is kept for {source.model.name}: one would be made")
        return pending_importance(
            source, chosen_words(given.include_weights, given.exclude_weights)
        )
    return importance_for(given, lambda: kept_or_made(source, registry, sink))


def kept_or_made(source: Source, registry: Registry, sink: Sink) -> Path:
    """The model's importance matrix: the one that is kept, or one made now."""
    if (kept := find_imatrix(source.model, registry)) is not None:
        sink.note(f"importance matrix: {kept}")
        return kept
    sink.note(f"no importance matrix is kept for {source.model.name}: making one")
    return make_imatrix(source.runnable, registry, sink.progress, sink.note).path


def warn_of(result: Quantized, request: Request, sink: Sink) -> None:
    """Say what a user should know of a result."""
    if result.requantized and any(is_quantized(c.to_type) for c in result.changes):
        types = ", ".join(f"{n} of {kind}" for kind, n in result.requantized.items())
        sink.warn(
            f"{result.source} is quantized already ({types}): {result.name} loses more than one "
            "made from F16 or BF16"
        )
    if result.fallbacks:
        sink.warn(
            f"{len(result.fallbacks)} of {len(result.tensors)} tensors have rows that the type "
            f"does not divide, and take another: {result.fallbacks[0]} is the first"
        )
    if result.unweighted:
        sink.warn(
            f"the importance matrix says nothing of {len(result.unweighted)} tensors: "
            f"{result.unweighted[0]} is the first"
        )
    if request.importance is not None and (quiet := request.importance.quiet):
        name = max(quiet, key=lambda tensor: quiet[tensor])
        sink.warn(
            f"{sum(quiet.values())} experts were never activated by the importance matrix's text, "
            f"{quiet[name]} of them in {name}; more text may reach them"
        )
