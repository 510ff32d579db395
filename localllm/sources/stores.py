"""Models that are on this machine already: `localllm import --from ...` without a copy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from localllm.config import Settings
from localllm.errors import FileGone
from localllm.sources.found import FoundFile, FoundModel, Note
from localllm.sources.stores_files import any_folder, hf_cache, lmstudio
from localllm.sources.stores_ollama import ollama_store

__all__ = ["FoundFile", "FoundModel", "Note", "StoreKind", "find_models", "store_root"]

StoreKind = Literal["ollama", "hf-cache", "lmstudio", "dir"]

_READERS: dict[StoreKind, Callable[[Path, Note], Iterator[FoundModel]]] = {
    "ollama": ollama_store,
    "hf-cache": hf_cache,
    "lmstudio": lmstudio,
    "dir": any_folder,
}
_OLLAMA_SERVICE = Path("/usr/share/ollama/.ollama/models")  # its Linux service has its own user
_OLD_LMSTUDIO = (".cache", "lm-studio", "models")


def find_models(
    kind: StoreKind,
    root: Path | None,
    settings: Settings,
    note: Note = lambda text: None,
) -> tuple[FoundModel, ...]:
    """The models in a store of this kind; `root` None looks where `kind` usually is.

    Nothing is moved, copied or hashed, and of large files nothing is read. Models that lack
    files are given too, with `missing`. `note` is told, one line each, of what could not be
    read. Raises FileGone where there is no such folder.
    """
    folder = root.expanduser() if root is not None else store_root(kind, settings)
    if folder is None or not folder.is_dir():
        what = {"ollama": "Ollama's store", "hf-cache": "the Hugging Face cache"}.get(kind)
        what = what or ("LM Studio's models" if kind == "lmstudio" else "a folder of models")
        raise FileGone(f"there is no {folder or 'folder'} ({what})", _HINTS.get(kind))
    return tuple(_READERS[kind](folder, note))


_HINTS: dict[StoreKind, str] = {
    "ollama": "where it lies elsewhere: OLLAMA_MODELS=FOLDER localllm import --from ollama",
    "hf-cache": "where it lies elsewhere: HF_HUB_CACHE=FOLDER localllm import --from hf-cache",
    "lmstudio": "where it lies elsewhere: LMSTUDIO_MODELS=FOLDER localllm import --from lmstudio",
}


def store_root(kind: StoreKind, settings: Settings) -> Path | None:
    """Where a store of this kind lies on this machine, by settings; None for any folder.

    Where the usual place does not exist, the other place that the program is known to use.
    """
    if kind == "hf-cache":
        return settings.hf_cache
    if kind == "ollama":
        service = [_OLLAMA_SERVICE] if sys.platform == "linux" else []
        return _first_folder(settings.ollama_models, *service)
    if kind == "lmstudio":
        return _first_folder(settings.lmstudio_models, Path.home().joinpath(*_OLD_LMSTUDIO))
    return None


def _first_folder(usual: Path, *others: Path) -> Path:
    return next((path for path in (usual, *others) if path.is_dir()), usual)
