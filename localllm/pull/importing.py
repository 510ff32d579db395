"""Register models that other programs keep on this machine, where they lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from localllm import config
from localllm.errors import DamagedFile, FileGone, NotFound
from localllm.library import describe
from localllm.pull.naming import free_name, name_for
from localllm.registry import Arrival, Registry, Staged
from localllm.sources.found import FoundModel


@dataclass(frozen=True)
class Imported:
    """One model that was found. `outcome`: registered, known (its files already are), or
    skipped with the reason."""

    name: str
    outcome: str
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
    first = next((f for f in found.files if f.role in ("weights", "adapter")), found.files[0])
    name = name_for(found.ref.at(None).pick(found.variant))

    def outcome(word: str, reason: str | None = None, file_type: str | None = None) -> Imported:
        return Imported(
            name, word, reason, found.format, file_type, found.size_bytes, str(first.path)
        )

    if found.missing:
        return outcome("skipped", f"{', '.join(found.missing)} is missing")
    weights = [f.path for f in found.files if f.role in ("weights", "adapter")] or [first.path]
    if all(p.resolve() in known for p in weights):
        return outcome("known")
    try:
        facts = describe(weights)
    except (DamagedFile, FileGone) as e:
        return outcome("skipped", e.message)
    if dry_run:
        return outcome("found", None, facts.file_type)
    name = free_name(registry, name, found.ref)
    registry.add(
        Arrival(
            name=name,
            ref=found.ref.pick(found.variant),
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
    )
    known.update(p.resolve() for p in weights)
    return outcome("registered", None, facts.file_type)
