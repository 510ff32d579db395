"""Which models there are."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from localllm.registry import Model, Registry

SortKey = Literal["name", "size", "params", "added"]


@dataclass(frozen=True)
class ListedModel:
    name: str
    aliases: tuple[str, ...]
    format: str
    source: str
    architecture: str | None
    file_type: str | None
    n_params: int | None
    size_bytes: int
    added_at: float
    path: str
    present: bool  # its files are on disk


def list_models(
    registry: Registry, pattern: str | None = None, sort: SortKey = "name", reverse: bool = False
) -> tuple[ListedModel, ...]:
    """Models whose name, alias, architecture, type, format or source matches `pattern`.

    A pattern without wildcards is looked for anywhere; `*`, `?` and `[...]` must match the
    whole word. Case does not count.
    """
    keys: dict[SortKey, Callable[[ListedModel], Any]] = {
        "name": lambda m: m.name.casefold(),
        "size": lambda m: m.size_bytes,
        "params": lambda m: m.n_params or 0,
        "added": lambda m: m.added_at,
    }
    found = [_listed(m) for m in registry.models() if pattern is None or _matches(m, pattern)]
    return tuple(sorted(found, key=keys[sort], reverse=reverse))


def _listed(model: Model) -> ListedModel:
    return ListedModel(
        name=model.name,
        aliases=model.aliases,
        format=model.format,
        source=model.source,
        architecture=model.architecture,
        file_type=model.file_type,
        n_params=model.n_params,
        size_bytes=model.size_bytes,
        added_at=model.added_at,
        path=str(model.path),
        present=model.path.exists(),
    )


def _matches(model: Model, pattern: str) -> bool:
    wanted = pattern.casefold()
    words = [model.name, *model.aliases, model.architecture, model.file_type, model.format]
    texts = [w.casefold() for w in [*words, model.source] if w]
    if any(c in wanted for c in "*?["):
        return any(fnmatch.fnmatchcase(t, wanted) for t in texts)
    return any(wanted in t for t in texts)
