"""What a server lists, and its vectors: from JSON that is not trusted to plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localllm.endpoints.counting import tokens_of
from localllm.endpoints.endpoint import Kind
from localllm.endpoints.failures import EndpointBroken, one_line


@dataclass(frozen=True)
class RemoteModel:
    """One line of /v1/models."""

    id: str
    owned_by: str | None = None
    n_ctx: int | None = None


@dataclass(frozen=True)
class Listed:
    """`kind` is what the server seems to be, None where nothing tells."""

    models: tuple[RemoteModel, ...]
    kind: Kind | None
    took_s: float


@dataclass(frozen=True)
class Embedded:
    """`rows` in the order of the texts; `n_tokens` None where the server does not say, or says
    what cannot be."""

    rows: tuple[tuple[float, ...], ...]
    n_tokens: int | None
    model: str | None


def model_of(entry: Mapping[str, Any]) -> RemoteModel:
    """One line of the list; its id is text."""
    meta = entry.get("meta")
    places = [entry, meta if isinstance(meta, Mapping) else {}]
    names = ("max_model_len", "n_ctx", "context_length", "n_ctx_train")
    found = [place.get(name) for place in places for name in names]
    n_ctx = next(
        (n for n in found if isinstance(n, int) and not isinstance(n, bool) and n > 0), None
    )
    owner = entry.get("owned_by")
    return RemoteModel(
        one_line(str(entry["id"])), one_line(owner) if isinstance(owner, str) else None, n_ctx
    )


def kind_of(entries: Sequence[Mapping[str, Any]], headers: Mapping[str, str]) -> Kind | None:
    """By what only these servers say."""
    owners = {owner for one in entries if isinstance(owner := one.get("owned_by"), str)}
    if headers.get("server", "").lower().startswith("llama.cpp") or "llamacpp" in owners:
        return "llama.cpp"
    if "vllm" in owners:
        return "vllm"
    if any("n_ctx_train" in one and "quantization" in one for one in entries):
        return "localllm"
    return "ollama" if owners == {"library"} else None


def embedded_of(
    value: Mapping[str, Any], texts: Sequence[str | Sequence[int]], name: str
) -> Embedded:
    """Raises EndpointBroken where it is not one vector a text, all of one length."""
    n_texts = len(texts)
    broken = EndpointBroken(f"{name} sends no vectors, or not one for each of {n_texts} texts")
    data = value.get("data")
    if not isinstance(data, list) or len(data) != n_texts:
        raise broken
    rows: dict[int, tuple[float, ...]] = {}
    for i, one in enumerate(data):
        vector = one.get("embedding") if isinstance(one, Mapping) else None
        index = one.get("index", i) if isinstance(one, Mapping) else i
        if not isinstance(vector, list) or not vector or not isinstance(index, int):
            raise broken
        if not all(map(_is_number, vector)):
            raise broken
        rows[index] = tuple(map(float, vector))
    if set(rows) != set(range(n_texts)) or len({len(row) for row in rows.values()}) > 1:
        raise broken
    usage, model = value.get("usage"), value.get("model")
    return Embedded(
        tuple(rows[i] for i in range(n_texts)),
        tokens_of(usage, texts),
        one_line(model) if isinstance(model, str) else None,
    )


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False
