"""What a user names when a benchmark is compared: a file, a run's ID, a tag or a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.bench.files.reading import read_runs
from localllm.errors import AmbiguousModel, LocalLLMError, NotFound, UsageProblem
from localllm.library.bench.record import BenchRun
from localllm.library.bench.restore import run_from
from localllm.refs import ModelRef
from localllm.registry import Measurement, Registry

_GRAMMAR = "a run is a file, an ID or a tag of localllm bench history, MODEL, or MODEL@TAG"


@dataclass(frozen=True)
class Found:
    """Runs that a text names, one a model, and how they were found ("run 12", "base.json")."""

    origin: str
    runs: tuple[BenchRun, ...]

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(run.model for run in self.runs)

    def of(self, names: Sequence[str]) -> Found:
        """Only the runs of the models of these names. Raises NotFound where one has none."""
        for name in names:
            if name not in self.models:
                raise NotFound(
                    f"{self.origin} has no run of {name}, but of {', '.join(self.models)}"
                )
        return replace(self, runs=tuple(run for run in self.runs if run.model in names))


def resolve_runs(text: str, registry: Registry) -> Found:
    """The runs that `text` names; of several of one model the newest that is complete.

    A file that is there (or a text that looks like a path) is read: one of ours or of
    llama-bench. A number is the ID of a run. Then it is a tag, a model, or MODEL@TAG.
    Raises NotFound, FileGone, AmbiguousModel where it is both a tag and a model, UsageProblem
    for a run of another schema, DamagedFile.
    """
    if _is_path(text):
        path = Path(text).expanduser()
        runs = newest_of_each(read_runs(path))
        if not runs:
            raise UsageProblem(f"{path} has no run of a benchmark", "localllm bench MODEL --json")
        return Found(str(path), runs)
    ways = (_by_id, _by_tag, _by_model, _by_model_and_tag)
    found = [hit for way in ways if (hit := way(text, registry)) is not None]
    if not found:
        raise NotFound(f"{text!r} names no run", _GRAMMAR)
    if len(found) > 1 and not text.isdecimal():
        names = " and ".join(hit.origin for hit in found)
        raise AmbiguousModel(f"{text!r} is {names}", "say the ID: localllm bench history")
    return found[0]


def newest_of_each(runs: Iterable[BenchRun]) -> tuple[BenchRun, ...]:
    """The newest run of each model; one that is not complete only where no other is."""
    best: dict[tuple[str, str | None], BenchRun] = {}
    for run in runs:
        key = (run.model, run.sha256)
        known = best.get(key)
        if known is None or _rank(run) >= _rank(known):  # of equals the later in the file
            best[key] = run
    return tuple(best.values())


def _rank(run: BenchRun) -> tuple[bool, float]:
    return run.complete, run.started_at


def _is_path(text: str) -> bool:
    """A file's name: because the file is there, or because nothing else looks so."""
    path = Path(text).expanduser()
    suffixes = (".json", ".jsonl", ".csv", ".sql", ".ndjson")
    looks = text.startswith((".", "/", "~", "\\")) or path.suffix.lower() in suffixes
    try:
        return looks or path.is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte, is no file
        return False


def _by_id(text: str, registry: Registry) -> Found | None:
    if not (text.isdecimal() and text.isascii() and len(text) < 19):
        return None
    kept = registry.measurement(int(text))
    if kept is None or kept.kind != "bench":
        return None
    return Found(f"run {kept.id}", (run_of(kept),))


def _by_tag(text: str, registry: Registry) -> Found | None:
    kept = [m for m in registry.measurements_of_kind("bench") if m.data.get("tag") == text]
    return _newest(kept, f"tag {text}")


def _by_model(text: str, registry: Registry) -> Found | None:
    name = _model(text, registry)
    everything = [] if name is None else _runs_of(name, registry)
    if name is None or (not everything and not _is_registered(name, registry)):
        return None
    kept = [m for m in everything if _has_figures(m)]
    if not kept:
        raise NotFound(f"{name} has no complete run of a benchmark", f"localllm bench {name}")
    found = _newest(kept, f"model {name}")
    return replace(found, runs=_latest(found.runs)) if found else None


def _by_model_and_tag(text: str, registry: Registry) -> Found | None:
    before, at, tag = text.rpartition("@")
    name = _model(before, registry) if at and before and tag else None
    if name is None:
        return None
    everything = _runs_of(name, registry)
    if not everything and not _is_registered(name, registry):
        return None
    kept = [m for m in everything if m.data.get("tag") == tag]
    if not kept:
        raise NotFound(f"{name} has no run tagged {tag!r}", f"localllm bench history {name}")
    found = _newest(kept, f"{name}, tag {tag}")
    return replace(found, runs=_latest(found.runs)) if found else None


def _latest(runs: tuple[BenchRun, ...]) -> tuple[BenchRun, ...]:
    """The newest of the runs of one name: its weights may have changed between them."""
    return (max(runs, key=_rank),)


def _runs_of(name: str, registry: Registry) -> list[Measurement]:
    """By name: of an import, or of a model that is gone, the registry has nothing else."""
    kept = registry.measurements_of_kind("bench")
    return [m for m in kept if m.model.casefold() == name.casefold()]


def _model(text: str, registry: Registry) -> str | None:
    """The name that runs of this model are kept under; the text itself where the registry has
    no such model. Raises AmbiguousModel."""
    try:
        return registry.resolve(ModelRef.parse(text)).name
    except AmbiguousModel:
        raise
    except (NotFound, UsageProblem):
        return text


def _is_registered(name: str, registry: Registry) -> bool:
    return any(model.name == name for model in registry.models())


def _has_figures(kept: Measurement) -> bool:
    return bool(kept.data.get("complete", True)) and bool(kept.data.get("rows"))


def _newest(kept: Sequence[Measurement], origin: str) -> Found | None:
    """The newest readable run of each model among `kept` (newest first).

    A run that cannot be read (of an older schema) is passed over for one that can; where none
    can, its error is raised.
    """
    if not kept:
        return None
    runs, refused = _readable(kept)
    if not runs:
        raise refused[0]
    return Found(origin, newest_of_each(reversed(runs)))


def _readable(kept: Sequence[Measurement]) -> tuple[list[BenchRun], list[LocalLLMError]]:
    runs: list[BenchRun] = []
    refused: list[LocalLLMError] = []
    for measurement in kept:
        try:
            runs.append(run_of(measurement))
        except LocalLLMError as e:
            refused.append(e)
    return runs, refused


def run_of(kept: Measurement) -> BenchRun:
    """A run of the registry. Raises UsageProblem for another schema, DamagedFile."""
    run = run_from(kept.data, origin=f"run {kept.id} of {kept.model}")
    return replace(run, id=kept.id)
