"""What a pulled or imported model is called in the registry."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from localllm.refs import ModelRef

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_LONGEST = 90  # of a word in a reference, with room for a number behind it


def name_of(ref: ModelRef, repo: str) -> str:
    """`org/repo:Q4_K_M` for the Hub, `ollama:model:tag`, `pypi:package`: the reference itself.

    A path is called by its own last part and a URL by the file's name, which is `repo`, both
    without the ending and the shard's number.
    """
    if ref.scheme == "hf":
        return str(ref).removeprefix("hf:")
    if ref.scheme == "file":
        return plain_name(PurePosixPath(ref.name.replace("\\", "/")).name)
    return plain_name(repo) if ref.scheme in ("http", "https") else str(ref)


def plain_name(text: str) -> str:
    """`text` as a name of the registry: a word of letters, digits, `.`, `_` and `-`."""
    while text.lower().endswith(".gguf"):
        text = text[: -len(".gguf")]
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", _SHARD.sub("", text))
    return re.sub(r"\.{2,}", ".", word).strip("-.")[:_LONGEST].strip("-.") or "model"
