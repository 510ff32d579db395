"""Lineage inside the file: a derived GGUF says itself what it was made from.

The JSON of a `Lineage` stands in the keys `localllm.lineage.0`, `.1`, ... in pieces that
fit the 127 bytes which llama.cpp's quantizer takes for a metadata value, so that writing it
costs no second pass over the file.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from localllm.registry.model import Lineage
from localllm.registry.rows import lineage, lineage_json

if TYPE_CHECKING:
    from localllm.formats.gguf import GGUFView

_KEY = "localllm.lineage."
_PIECE = 120
_MOST = 4096  # pieces: a plan of a large model has hundreds of patterns


def lineage_metadata(value: Lineage, source: GGUFView | None = None) -> dict[str, str]:
    """GGUF string keys and values that hold `value`.

    Pieces of the lineage that `source` itself carries, whose metadata is copied, are emptied.
    """
    text = lineage_text(value)
    pieces = [text[i : i + _PIECE] for i in range(0, len(text), _PIECE)]
    found = {f"{_KEY}{number}": piece for number, piece in enumerate(pieces[:_MOST])}
    for number in range(len(found), _MOST):
        if source is None or f"{_KEY}{number}" not in source.metadata:
            break
        found[f"{_KEY}{number}"] = ""
    return found


def lineage_text(value: Lineage) -> str:
    """The JSON of a lineage, ASCII, on one line."""
    return json.dumps(lineage_json(value), ensure_ascii=True, separators=(",", ":"))


def lineage_in(header: GGUFView) -> Lineage | None:
    """The lineage a GGUF carries, None where it has none or it cannot be read."""
    pieces: list[str] = []
    for number in range(_MOST):
        piece = header.metadata.get(f"{_KEY}{number}")
        if not isinstance(piece, str):
            break
        pieces.append(piece)
    if not pieces:
        return None
    try:
        return lineage(json.loads("".join(pieces)))
    except (ValueError, KeyError, TypeError):
        return None  # cut off or written by something else: the file is still a model
