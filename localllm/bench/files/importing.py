"""Runs of a file into the registry, under the models they were measured on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PureWindowsPath

from localllm.bench.files.grouping import identity
from localllm.bench.files.reading import read_runs
from localllm.bench.showing.stored import stored_runs
from localllm.errors import LocalLLMError, UsageProblem
from localllm.library import header_of
from localllm.library.bench.record import BenchRun
from localllm.refs import ModelRef
from localllm.registry import Model, Registry


@dataclass(frozen=True)
class Imported:
    """A run of a file. `id` is its number in the registry: a new one, or the one it had already
    where `is_new` is false. `matched` says how its model was found, None where it was not."""

    file: str
    id: int
    model: str
    is_new: bool
    matched: str | None
    rows: int
    complete: bool


def import_runs(
    paths: Sequence[Path], registry: Registry, *, model: Model | None = None, tag: str | None = None
) -> tuple[Imported, ...]:
    """Keep the runs of all files; of measurements that are there already none is added.

    They are kept under `model`, or the registered model they were measured on (by digest, path,
    or file name and size), or else the file's name. Every file is read before one is kept.
    Raises what `read_runs` raises.
    """
    found = [(path, run) for path in paths for run in read_runs(path)]
    known = {identity(run.rows): run.id for run in stored_runs(registry).runs}
    models = registry.models()
    done = []
    for path, run in found:
        match = (model, "as told") if model is not None else match_model(run, models)
        name = match[0].name if match else _free_name(run.model, models)
        key = identity(run.rows)
        number, is_new = known.get(key), key not in known
        if number is None:
            kept = replace(
                run, id=None, model=name, tag=tag or run.tag,
                rows=tuple(replace(row, model=name) for row in run.rows),
            )  # fmt: skip
            number = registry.record(match[0] if match else _nameless(name), "bench", asdict(kept))
            known[key] = number
        done.append(
            Imported(str(path), number, name, is_new, match[1] if match else None, len(run.rows),
                     run.complete)
        )  # fmt: skip
    return tuple(done)


def match_model(run: BenchRun, models: Sequence[Model]) -> tuple[Model, str] | None:
    """The registered model that was measured, and by what it was found: "digest", "path" or
    "name and size". None where none fits, or several do."""
    if not run.rows:
        return None
    first = run.rows[0]
    digest = run.sha256 or first.sha256
    if digest:
        found = [m for m in models if any(f.sha256 == digest for f in m.weights)]
        return (found[0], "digest") if found else None
    path = Path(first.model_filename)
    by_path = [m for m in models if path.is_absolute() and any(f.path == path for f in m.files)]
    if len(by_path) == 1 and _could_be(by_path[0], run):
        return by_path[0], "path"
    name = PureWindowsPath(first.model_filename).name
    by_name = [
        m for m in models
        if any(PureWindowsPath(f.name).name == name or f.path.name == name for f in m.weights)
        and _could_be(m, run)
    ]  # fmt: skip
    return (by_name[0], "name and size") if len(by_name) == 1 else None


def _could_be(model: Model, run: BenchRun) -> bool:
    """llama-bench tells the bytes of the tensors, which the model's header tells too."""
    told = run.rows[0].model_size
    if not told:
        return True
    try:
        return told == sum(tensor.size_bytes for tensor in header_of(model).tensors.values())
    except LocalLLMError:  # the model's file is gone or damaged, which is not this file's fault
        return False


def _free_name(name: str, models: Sequence[Model]) -> str:
    """Not what a registered model answers to, since this one is another."""
    names = {called.casefold() for m in models for called in (m.name, *m.aliases)}
    taken = names | {called.rpartition("/")[2] for called in names}
    return f"{name} (imported)" if name.casefold() in taken else name


def _nameless(name: str) -> Model:
    """Measurements are kept by name: a model that is not here has nothing but one."""
    return Model(
        id=None, name=name, ref=ModelRef.parse("./imported.gguf"), format="gguf", source="file",
        publisher="", repo=name, variant=None, architecture=None, file_type=None, n_params=None,
        n_ctx_train=None, files=(), added_at=time.time(),
    )  # fmt: skip


def known_model(name: str, registry: Registry) -> Model:
    """The registered model to keep runs under. Raises ModelNotFound, UsageProblem."""
    model = registry.resolve(name)
    if model.id is None:
        raise UsageProblem(f"{name} is not in the registry", f"localllm pull {name}")
    return model
