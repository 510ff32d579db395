"""Importance matrices in the home: `imatrix/<model>/<what it was made with>.gguf`.

They are no models and have no rows in the index: each file says itself which model and text it
is of (formats.imatrix), and what the index does not know it cannot get wrong.
"""

from __future__ import annotations

from pathlib import Path

from localllm.registry.database import make_folder, unwritable
from localllm.registry.landing import safe_component
from localllm.registry.store import Registry


def matrix_path(registry: Registry, model_name: str, mark: str) -> Path:
    """Where the matrix of this model, made with what `mark` says, lies or would lie."""
    return _folder(registry, model_name) / f"{safe_component(mark)}.gguf"


def matrices(registry: Registry, model_name: str) -> tuple[Path, ...]:
    """The matrices kept for this model, the newest first."""
    found = [(path.stat().st_mtime, path) for path in _folder(registry, model_name).glob("*.gguf")]
    return tuple(path for _, path in sorted(found, reverse=True))


def keep_matrix(registry: Registry, made: Path, model_name: str, mark: str) -> Path:
    """Move the complete file `made` (in `partial/`) to its place, over an older one.

    Raises HomeUnwritable, DiskFull.
    """
    final = matrix_path(registry, model_name, mark)
    make_folder(final.parent)
    try:
        made.replace(final)
    except OSError as error:
        raise unwritable(final, error) from None
    return final


def _folder(registry: Registry, model_name: str) -> Path:
    # "org/name:Q4_K_M" and "org/name_Q4_K_M" must not share a folder
    plain = model_name.replace("%", "%25").replace("/", "%2F").replace(":", "%3A")
    return registry.home / "imatrix" / safe_component(plain.casefold())
