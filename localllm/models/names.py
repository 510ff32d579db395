"""Paths, second names, removal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localllm.errors import FileGone, NotFound
from localllm.library import find_model
from localllm.refs import ModelRef
from localllm.registry import Model, Registry
from localllm.registry.resolve import pick


@dataclass(frozen=True)
class Paths:
    model: str
    path: Path
    paths: tuple[Path, ...]


def paths_of(model: Model, *, every: bool = False, mmproj: bool = False) -> Paths:
    """Where a model's files lie: the one to hand to a program, or `every` one.

    Raises NotFound where `mmproj` is asked for and the model has none.
    """
    if mmproj:
        files = model.with_role("mmproj")
        if not files:
            raise NotFound(f"{model.name} has no vision projector (mmproj)")
        paths: tuple[Path, ...] = (files[0].path,)
    else:
        paths = tuple(f.path for f in model.files) if every else (model.path,)
    for path in paths:
        if not path.exists():
            raise FileGone(f"{path} is gone", f"localllm rm {model.name}")
    return Paths(model.name, paths[0], paths)


@dataclass(frozen=True)
class Copied:
    model: str
    alias: str


def add_name(registry: Registry, name: str, alias: str) -> Copied:
    """Let `alias` name the model that `name` names. A file given by its path must be
    registered first. Raises UsageProblem where the name is taken or no name."""
    model = registry.resolve(name)
    registry.set_alias(alias, model)
    return Copied(model.name, alias)


@dataclass(frozen=True)
class Removed:
    name: str
    what: Literal["model", "alias"]
    freed_bytes: int
    children: tuple[str, ...] = ()


def remove(
    registry: Registry, names: Sequence[str], *, dry_run: bool = False
) -> tuple[Removed, ...]:
    """Remove models or aliases; nothing is removed if one of `names` means nothing.

    What other models share stays on disk; files registered in place are never deleted.
    """
    models = registry.models()
    targets: list[tuple[str, Model | None]] = []
    for name in names:
        alias = next(
            (a for m in models for a in m.aliases if a.casefold() == name.casefold()), None
        )
        targets.append((alias, None) if alias else (name, _known(registry, models, name)))
    done: list[Removed] = []
    seen: set[str] = set()
    for name, model in targets:
        if (key := name if model is None else model.name) in seen:
            continue
        seen.add(key)
        if model is None:
            if not dry_run:
                registry.remove_alias(name)
            done.append(Removed(name, "alias", 0))
            continue
        children = tuple(c.name for c in registry.children(model))
        freed = _owned_bytes(model) if dry_run else registry.remove(model)
        done.append(Removed(model.name, "model", freed, children))
    return tuple(done)


def _known(registry: Registry, models: Sequence[Model], name: str) -> Model:
    """The registered model, also one whose files are gone."""
    ref = ModelRef.parse(name)
    return find_registered(registry, ref) if ref.scheme == "file" else pick(models, ref)


def find_registered(registry: Registry, ref: ModelRef) -> Model:
    """A model by the path of its file; it must be in the registry."""
    model = find_model(str(ref), registry)
    if model.id is None:
        raise NotFound(f"{ref.name} is not in the registry", "localllm list")
    return model


def _owned_bytes(model: Model) -> int:
    total = 0
    for file in model.files:
        if file.owned and file.path.exists() and file.path.stat().st_nlink == 1:
            total += file.size_bytes
    return total
