"""Other quantizations of the same source, with what was measured of them before.

Nothing is measured here. Figures that were taken under other conditions are given all the same,
and each says in what they differ.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from localllm.engine.build import build_info
from localllm.errors import LocalLLMError
from localllm.library.bench.record import BenchRun
from localllm.library.bench.restore import run_from
from localllm.library.derive import parent_of
from localllm.library.quality.record import Conditions, Quality, differences, stored
from localllm.quantize.measured.measurer import Measurer
from localllm.quantize.measured.record import (
    N_GEN,
    N_PROMPT,
    Measured,
    row_of,
    with_quality,
    with_speed,
)
from localllm.registry import Model, Registry
from localllm.ui import Moment, Progress

_TESTS = (f"pp{N_PROMPT}", f"tg{N_GEN}")


def siblings(
    source: Model, registry: Registry, progress: Progress, but: Collection[str] = ()
) -> tuple[Model, ...]:
    """Registered quantizations of `source` that are on disk, those named in `but` left out; the
    largest first."""
    name, digest = parent_of(source, progress)
    found = [
        model
        for model in registry.models()
        if model.lineage is not None
        and model.lineage.operation == "quantize"
        and model.format == "gguf"
        and model.name not in but
        and any(_is(parent, name, digest) for parent in model.lineage.parents)
        and all(file.path.exists() for file in model.files)
    ]
    return tuple(sorted(found, key=lambda model: (-model.size_bytes, model.name)))


def sibling_row(model: Model, measurer: Measurer) -> Measured:
    """What is known of `model`, without measuring. Raises DamagedFile, FileGone."""
    found = row_of(model, "sibling", model.file_type)
    elsewhere: list[str] = []
    if (row := _quality(model, measurer)) is not None:
        found = with_quality(found, row)
        if other := _differing(row, measurer.conditions()):
            elsewhere.append(f"quality: {', '.join(other)}")
    if (run := _speed(model, measurer)) is not None:
        found = with_speed(found, run, reused=True)
        if other := _other_speed(run, model, measurer):
            elsewhere.append(f"speed: {', '.join(other)}")
    return replace(found, elsewhere=tuple(elsewhere))


def _is(parent: tuple[str, str | None], name: str, digest: str | None) -> bool:
    """By content where both are known: a model may have been renamed, or be another by now."""
    if parent[1] is not None and digest is not None:
        return parent[1] == digest
    return parent[0].casefold() == name.casefold()


def _quality(model: Model, measurer: Measurer) -> Quality | None:
    """The measurement that differs least in its conditions, the newest of several."""
    wanted = measurer.conditions()
    rows = list(stored(measurer.registry, model))
    return min(rows, key=lambda row: len(_differing(row, wanted)), default=None)


def _differing(row: Quality, wanted: Conditions) -> tuple[str, ...]:
    """A perplexity is no other for having been taken without a base: then only KLD is missing."""
    if row.base is None:
        wanted = replace(wanted, base=None)
    return differences(row, wanted)


def _speed(model: Model, measurer: Measurer) -> BenchRun | None:
    """The newest run with both tests, one of the very same sweep before all others."""
    wanted = measurer.sweep_digest(model)
    runs = list(_runs(model, measurer.registry))
    return next((run for run in runs if run.sweep == wanted), runs[0] if runs else None)


def _runs(model: Model, registry: Registry) -> Iterator[BenchRun]:
    digest = model.weights[0].sha256
    for kept in registry.measurements(model, "bench"):
        if digest is None or kept.sha256 != digest or "schema" not in kept.data:
            continue
        try:
            run = run_from(kept.data, origin=f"run {kept.id}")
        except LocalLLMError:
            continue  # of another version; `bench history` says so
        tests = [row.test for row in run.rows if row.failure is None]
        if all(tests.count(test) == 1 for test in _TESTS):  # of several nothing says which
            yield replace(run, id=kept.id)


def _other_speed(run: BenchRun, model: Model, measurer: Measurer) -> tuple[str, ...]:
    """In what the run was made under other conditions, in words."""
    if run.sweep == measurer.sweep_digest(model):
        return ()
    found = []
    if run.machine is None or run.machine.fingerprint != measurer.machine.fingerprint:
        found.append(f"machine {run.machine.host if run.machine else 'unknown'}")
    if (commit := run.versions.get("llama.cpp")) != build_info().commit:
        found.append(f"llama.cpp {commit}")
    return tuple(found) or (f"another run, #{run.id} of {Moment(run.started_at)}",)
