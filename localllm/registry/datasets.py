"""Data sets in the home: `datasets/<publisher>/<name>/<commit>/<file>`.

They are no models and have no rows in the index. A folder is named after a commit, so what lies
in it never changes; it may be deleted at any time and is fetched again.
"""

from __future__ import annotations

from pathlib import Path

from localllm.registry.database import make_folder, unwritable
from localllm.registry.landing import safe_component
from localllm.registry.store import Registry


def dataset_file(registry: Registry, name: str, commit: str, file: str) -> Path:
    """Where `file` (with forward slashes) of the data set `name` at `commit` lies or would lie."""
    parts = (*name.split("/"), commit, *file.split("/"))
    return registry.home.joinpath("datasets", *map(safe_component, parts))


def keep_dataset_file(made: Path, final: Path) -> None:
    """Move the complete file `made` (in `partial/`) to its place.

    Raises HomeUnwritable, DiskFull.
    """
    make_folder(final.parent)
    try:
        made.replace(final)
    except OSError as error:
        raise unwritable(final, error) from None
