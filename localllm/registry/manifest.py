"""A JSON file beside the index for each model, from which the index can be rebuilt."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from localllm.errors import DamagedFile, InvalidReference
from localllm.refs import ModelRef
from localllm.registry.model import Model, StoredFile
from localllm.registry.rows import COLUMNS, lineage, lineage_json, stored_path

_SCHEMA = 1


def path_for(folder: Path, name: str) -> Path:
    """Where the manifest of the model `name` lies; no two names share one, in any case."""
    return folder / f"{quote(name.lower(), safe='.-_@+')}.json"


def write(folder: Path, model: Model, home: Path) -> None:
    """Replace the manifest of `model` atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"schema": _SCHEMA}
    document |= {column: getattr(model, column) for column in COLUMNS}
    document["ref"] = str(model.ref)
    document["extras"] = dict(model.extras)
    document["aliases"] = list(model.aliases)
    document["lineage"] = None if model.lineage is None else lineage_json(model.lineage)
    document["files"] = [
        {
            "name": f.name,
            "path": stored_path(f, home),
            "size_bytes": f.size_bytes,
            "sha256": f.sha256,
            "role": f.role,
            "owned": f.owned,
        }
        for f in model.files
    ]
    final = path_for(folder, model.name)
    temporary = final.with_name(f"{final.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, home: Path) -> Model:
    """The model a manifest describes. Raises DamagedFile."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("schema") != _SCHEMA:
            raise DamagedFile(f"{path} has a schema this version does not know")
        files = tuple(
            StoredFile(**{**f, "path": home / f["path"], "owned": bool(f["owned"])})
            for f in document.pop("files")
        )
        made = document.pop("lineage")
        return Model(
            id=None,
            files=files,
            ref=ModelRef.parse(document.pop("ref")),
            aliases=tuple(document.pop("aliases")),
            lineage=None if made is None else lineage(made),
            **document,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidReference) as e:
        raise DamagedFile(f"{path} is no manifest: {e}") from None
