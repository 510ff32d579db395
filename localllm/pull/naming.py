"""What a pulled model is called in the registry."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from localllm.refs import ModelRef
from localllm.registry import Registry

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def name_for(ref: ModelRef) -> str:
    """`org/repo:Q4_K_M` for the Hub, `ollama:m:tag`, `pypi:package`; the file's own name for
    URLs and paths. A revision is part of the name only if the user asked for one."""
    if ref.scheme == "hf":
        return str(ref).removeprefix("hf:")
    if ref.scheme not in ("http", "https", "file"):
        return str(ref)
    path = urlsplit(f"{ref.scheme}:{ref.name}").path if ref.scheme != "file" else ref.name
    file_name = PurePosixPath(unquote(path).replace("\\", "/")).name
    stem = file_name[: -len(".gguf")] if file_name.lower().endswith(".gguf") else file_name
    stem = _SHARD.sub("", stem)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "model"


def free_name(registry: Registry, name: str, ref: ModelRef) -> str:
    """`name`, or `name-2` and so on where a model from elsewhere has it."""
    taken = {m.name.casefold(): m for m in registry.models()}
    aliases = {a.casefold() for m in taken.values() for a in m.aliases}
    candidate, number = name, 2
    while True:
        model = taken.get(candidate.casefold())
        same = model is not None and _same_place(model.ref, ref)
        if same or (model is None and candidate.casefold() not in aliases):
            return candidate
        candidate, number = f"{name}-{number}", number + 1


def _same_place(a: ModelRef, b: ModelRef) -> bool:
    return (a.scheme, a.name.casefold()) == (b.scheme, b.name.casefold())
