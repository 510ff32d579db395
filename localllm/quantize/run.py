"""One run: a source, and one result for each request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from localllm.errors import DamagedFile
from localllm.library.find import find_model
from localllm.quantize.convert_first import converted_source
from localllm.quantize.plan import Request, is_quantized, make_plan
from localllm.quantize.planfile import save_plan as write_plan
from localllm.quantize.quantize import Quantized, preview, quantize
from localllm.quantize.requests import Given, importance_for, requests_for
from localllm.quantize.source import Source, open_source
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
    with _source(found, requests, registry, sink, dry_run) as source:
        weights = importance_for(given, lambda: _kept_or_made(source, registry, sink))
        done = []
        for plain in requests:
            request = replace(plain, importance=weights)
            if save_plan is not None:
                _save(save_plan, source, request)
                sink.note(f"wrote {save_plan}")
            if dry_run:
                result = preview(source, request, sink.progress)
            else:
                result = quantize(source, request, registry, sink.progress, sink.note)
            _warn(result, request, sink)
            done.append(result)
        return done


@contextmanager
def _source(
    model: Model, requests: Sequence[Request], registry: Registry, sink: Sink, dry_run: bool
) -> Iterator[Source]:
    """The model itself if it is a GGUF; one of safetensors is converted first, for as long as
    the block runs."""
    if model.format not in ("gguf", "safetensors", "mmproj"):
        raise DamagedFile(f"{model.name} is no model but a {model.format} file")
    if model.format == "safetensors":
        types = [request.recipe.type for request in requests]
        with converted_source(model, types, registry, sink, dry_run=dry_run) as source:
            yield source
    else:
        yield open_source(model)


def _save(path: Path, source: Source, request: Request) -> None:
    from localllm.engine.quantize import Quantizer

    with Quantizer() as quantizer:
        write_plan(path, request.recipe, make_plan(source, request, quantizer).tensors)


def _kept_or_made(source: Source, registry: Registry, sink: Sink) -> Path:
    from localllm.library.imatrix import find_imatrix, make_imatrix

    if (kept := find_imatrix(source.model, registry)) is not None:
        sink.note(f"importance matrix: {kept}")
        return kept
    sink.note(f"no importance matrix is kept for {source.model.name}: making one")
    return make_imatrix(source.runnable, registry, sink.progress, sink.note).path


def _warn(result: Quantized, request: Request, sink: Sink) -> None:
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
