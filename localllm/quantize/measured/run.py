"""`quantize --measure`: what was made, measured beside its source and siblings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.errors import Interrupted, LocalLLMError
from localllm.library.find import find_model
from localllm.quantize.measured.base_figures import base_figures
from localllm.quantize.measured.measurer import MeasureOptions, Measurer, base_of, check_measurable
from localllm.quantize.measured.record import has_figures
from localllm.quantize.measured.siblings import sibling_row, siblings
from localllm.quantize.measured.view import MeasuredSet
from localllm.quantize.requests import Given, requests_for
from localllm.quantize.result import Quantized
from localllm.quantize.run import importance_of, make_each, source_for
from localllm.quantize.source import Source, hashed
from localllm.registry import Model, Registry
from localllm.ui import Sink


@dataclass(frozen=True)
class Outputs:
    """What was made, and what is known of it."""

    outputs: Sequence[Quantized]
    measured: MeasuredSet


@dataclass(frozen=True)
class Done:
    """`error`: the first problem, where nothing of what was made could be measured."""

    result: Outputs
    error: LocalLLMError | None


def run_measured(
    model: str,
    given: Given,
    options: MeasureOptions,
    registry: Registry,
    sink: Sink,
    *,
    save_plan: Path | None = None,
) -> Done:
    """Make what is asked for, then measure it. Raises what `run_all` raises, and Interrupted."""
    requests = requests_for(given)
    found = find_model(model, registry)
    check_measurable(found)
    names = [one.recipe.type for one in requests]
    with source_for(found, names, registry, sink, False) as opened:
        source = hashed(opened, sink.progress)
        weights = importance_of(given, source, registry, sink, dry_run=False)
        requests = tuple(replace(one, importance=weights) for one in requests)
        done = make_each(source, requests, registry, sink, save_plan=save_plan)
        made = [(one.model, one.type) for one in done if one.model is not None]
        measured, error = measure_made(source, made, options, registry, sink)
        return Done(Outputs(done, measured), error)


def measure_made(
    source: Source,
    made: Sequence[tuple[Model, str | None]],
    options: MeasureOptions,
    registry: Registry,
    sink: Sink,
) -> tuple[MeasuredSet, LocalLLMError | None]:
    """Quality and speed of the models `made` (each with what to call its type) from `source`,
    and of the source; of its other quantizations what was measured before.

    A model that cannot be measured has its reasons in `failures`; where none could be, the first
    reason comes as an error too. Raises Interrupted: what was finished is kept in the registry,
    and the same call goes on from there.
    """
    measurer = Measurer(base_of(source), registry, sink.progress, options, sink.warn)
    try:
        with base_figures(measurer, registry, len(made), sink.note):
            rows = [measurer.measure(model, "made", name) for model, name in made]
            own = measurer.source()
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(
            "interrupted; what was made and measured so far is kept",
            "the same command goes on from there",
        ) from None
    others = siblings(source.model, registry, sink.progress, but=[m.name for m, _ in made])
    beside = [sibling_row(model, measurer) for model in others]
    failed = not any(map(has_figures, rows))
    found = MeasuredSet((own, *rows, *beside), measurer.conditions())
    return found, measurer.problems[0] if failed and measurer.problems else None
