"""Register models that other programs keep on this machine, where they lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localllm import config
from localllm.errors import DamagedFile, FileGone, NotFound
from localllm.library import Description, describe
from localllm.pull.naming import name_of
from localllm.registry import Arrival, Model, Registry, Staged
from localllm.sources.found import FoundModel

Outcome = Literal["registered", "known", "skipped", "found"]


@dataclass(frozen=True)
class Imported:
    """One model that was found. `outcome`: registered, known (it is here already), skipped
    with the reason, or found (a dry run)."""

    name: str
    outcome: Outcome
    reason: str | None
    format: str
    file_type: str | None
    size_bytes: int
    path: str


def import_models(
    registry: Registry,
    where: str,
    settings: config.Settings,
    note: Callable[[str], None],
    *,
    dry_run: bool = False,
) -> tuple[Imported, ...]:
    """Find models in a store (`ollama`, `hf-cache`, `lmstudio`) or below a folder, and
    register those that are not yet; nothing is copied, moved or later deleted.

    Raises NotFound where there is no such store or folder, or no model in it.
    """
    from localllm.sources.stores import StoreKind, find_models

    stores: tuple[StoreKind, ...] = ("ollama", "hf-cache", "lmstudio")
    store = next((kind for kind in stores if kind == where), None)
    if store is not None:
        found = find_models(store, None, settings, note)
    else:
        found = find_models("dir", Path(where).absolute(), settings, note)
    if not found:
        raise NotFound(f"no models found for --from {where}", "localllm import --from DIR")
    known = {f.path.resolve() for m in registry.models() for f in m.files}
    return tuple(_import_one(registry, model, known, dry_run) for model in found)


def _import_one(registry: Registry, found: FoundModel, known: set[Path], dry_run: bool) -> Imported:
    weights = [f for f in found.files if f.role in ("weights", found.format)]
    paths = [f.path for f in weights]
    name = name_of(found.ref.at(None), found.repo)

    def outcome(word: Outcome, reason: str | None = None, kind: str | None = None) -> Imported:
        size = found.size_bytes
        return Imported(name, word, reason, found.format, kind, size, str(paths[0]))

    if found.missing:
        return outcome("skipped", f"{', '.join(found.missing)} is missing")
    if all(path.resolve() in known for path in paths):
        return outcome("known")
    try:
        facts = describe(paths)
    except (DamagedFile, FileGone) as e:
        return outcome("skipped", e.message)
    if (here := _other_state(registry, name, found)) is not None:
        if found.ref.revision is None or found.ref.revision == here.ref.revision:
            return outcome("known", f"it is here already, in {here.path.parent}")
        name = name_of(found.ref.at(found.ref.revision[:12]), found.repo)
    if dry_run:
        return outcome("found", None, facts.file_type)
    arrival = _arrival(found, name, facts)
    name = registry.add(arrival, lambda model: _same_place(model, found)).name
    known.update(path.resolve() for path in paths)
    return outcome("registered", None, facts.file_type)


def _other_state(registry: Registry, name: str, found: FoundModel) -> Model | None:
    """A model that an import must not take the place of: it was pulled, or its files are
    there. One whose files are gone has moved to where they were found now."""
    for model in registry.models():
        if model.name.casefold() == name.casefold() and _same_place(model, found):
            there = all(f.path.exists() for f in model.files)
            return model if there or any(f.owned for f in model.files) else None
    return None


def _same_place(model: Model, found: FoundModel) -> bool:
    return (model.ref.scheme, model.ref.name) == (found.ref.scheme, found.ref.name)


def _arrival(found: FoundModel, name: str, facts: Description) -> Arrival:
    return Arrival(
        name=name,
        ref=found.ref,
        format=facts.format,
        source=found.ref.scheme,
        publisher=found.publisher,
        repo=found.repo,
        variant=found.variant or facts.file_type,
        architecture=facts.architecture,
        file_type=facts.file_type,
        n_params=facts.n_params,
        n_ctx_train=facts.n_ctx_train,
        extras=found.extras,
        files=tuple(
            Staged(f.path, f.name, f.size_bytes, f.sha256, f.role, in_place=True)
            for f in found.files
        ),
    )
