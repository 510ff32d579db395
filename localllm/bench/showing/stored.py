"""Runs out of the registry: all of them, or those that a name means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from localllm.bench.comparing.baseline import run_of
from localllm.errors import LocalLLMError, ModelNotFound, NotFound, UsageProblem
from localllm.library.bench.record import BenchRun
from localllm.registry import Measurement, Registry


@dataclass(frozen=True)
class Skipped:
    """A benchmark of the registry that is not read, and why."""

    id: int
    model: str
    reason: str


@dataclass(frozen=True)
class Stored:
    """Runs, newest first."""

    runs: tuple[BenchRun, ...]
    skipped: tuple[Skipped, ...] = ()


def stored_runs(registry: Registry, model: str | None = None) -> Stored:
    """Every run, or those of one model: a registered one, or a name that runs were kept under
    (a model that is gone, an import). Raises NotFound where there is none of that name."""
    kept = registry.measurements_of_kind("bench")
    if model is not None:
        name = _registered(model, registry) or model
        kept = tuple(m for m in kept if m.model.casefold() == name.casefold())
        if not kept:
            raise NotFound(f"there is no benchmark of {name}", f"localllm bench {name}")
    return _read(kept)


def find_runs(names: Sequence[str], registry: Registry) -> Stored:
    """The runs that each of `names` means: a run's ID, a tag, or a model; each run once.

    A number is an ID, and a tag goes before a model of the same name. Raises NotFound for a
    name that means none.
    """
    everything = registry.measurements_of_kind("bench")
    chosen: dict[int, Measurement] = {}
    for name in names:
        found = _named(name, everything, registry)
        if not found:
            raise NotFound(f"{name!r} is no run, tag or model with runs", "localllm bench history")
        chosen.update({m.id: m for m in found})
    return _read(chosen.values())


def _named(name: str, kept: Sequence[Measurement], registry: Registry) -> list[Measurement]:
    if name.isascii() and name.isdecimal():
        return [m for m in kept if m.id == int(name)]
    if tagged := [m for m in kept if m.data.get("tag") == name]:
        return tagged
    model = _registered(name, registry) or name
    return [m for m in kept if m.model.casefold() == model.casefold()]


def _registered(name: str, registry: Registry) -> str | None:
    """The model's own name, for an alias or a shortened one."""
    try:
        return registry.resolve(name).name
    except (ModelNotFound, NotFound):
        return None
    except UsageProblem as e:
        # an import's name may be no reference; two models of one short name are the user's to tell
        if type(e) is not UsageProblem and "ambiguous" in e.kind:
            raise
        return None


def _read(kept: Iterable[Measurement]) -> Stored:
    runs: list[BenchRun] = []
    skipped: list[Skipped] = []
    for measurement in kept:
        if "schema" not in measurement.data:
            reason = "made by an earlier version, which kept no conditions"
            skipped.append(Skipped(measurement.id, measurement.model, reason))
            continue
        try:
            runs.append(run_of(measurement))
        except LocalLLMError as e:
            skipped.append(Skipped(measurement.id, measurement.model, e.message))
    runs.sort(key=lambda run: (run.started_at, run.id or 0), reverse=True)
    return Stored(tuple(runs), tuple(skipped))
