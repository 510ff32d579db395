"""Data sets in the home: `datasets/<publisher>/<name>/<commit>/<file>`.

They are no models and have no rows in the index. A folder is named after a commit, so what lies
in it never changes; it may be deleted at any time and is fetched again. `prune` finds those that
no model was made from.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from localllm.registry.database import make_folder, unwritable
from localllm.registry.landing import safe_component
from localllm.registry.model import Model
from localllm.registry.store import Registry

_INPUT = "data:hf-dataset:"  # how a lineage names a file of one: org/name/file follows


def dataset_file(registry: Registry, name: str, commit: str, file: str) -> Path:
    """Where `file` (with forward slashes) of the data set `name` at `commit` lies or would lie."""
    parts = (*name.split("/"), commit, *file.split("/"))
    return registry.home.joinpath("datasets", *map(safe_component, parts))


def unnamed_files(models: Iterable[Model], home: Path) -> list[Path]:
    """Files of data sets from which none of `models` was made."""
    inputs = (key for m in models if m.lineage is not None for key in m.lineage.inputs)
    names = (key.removeprefix(_INPUT).split("/")[:2] for key in inputs if key.startswith(_INPUT))
    named = {home.joinpath("datasets", *map(safe_component, name)) for name in names}
    files = sorted(path for path in (home / "datasets").rglob("*") if path.is_file())
    return [path for path in files if named.isdisjoint(path.parents)]


def keep_dataset_file(made: Path, final: Path) -> None:
    """Move the complete file `made` (in `partial/`) to its place.

    Raises HomeUnwritable, DiskFull.
    """
    make_folder(final.parent)
    try:
        made.replace(final)
    except OSError as error:
        raise unwritable(final, error) from None
