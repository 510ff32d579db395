"""Texts to vectors, for either API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm.errors import UsageProblem
from localllm.library.answering import Far
from localllm.serve.answering.far import embedded
from localllm.serve.service import Service
from localllm.serve.web.exchange import Usage, exchange_of
from localllm.serve.web.problems import RequestProblem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from starlette.requests import Request

    from localllm.serve.resident.embedder import Embedder


@dataclass(frozen=True)
class Vectors:
    """float32 [n_texts, n_dimensions], and what it took."""

    rows: NDArray[np.float32]
    n_tokens: int
    load_s: float


@dataclass(frozen=True)
class Wanted:
    """`truncate` cuts texts that are too long; else they are refused. `dimensions` keeps only the
    first so many of each vector (Matryoshka), scaled to length 1 again."""

    model: str
    texts: Sequence[str | Sequence[int]]
    truncate: bool = False
    normalize: bool = True
    dimensions: int | None = None
    keep_alive_s: float | None = None


async def vectors_of(service: Service, request: Request, wanted: Wanted) -> Vectors:
    """Raises UsageProblem for an empty or over-long text, and what loading raises."""
    service.check_open()
    if not wanted.texts:
        raise RequestProblem("input is empty", "input")
    if len(wanted.texts) > service.limits.texts:
        raise RequestProblem(
            f"{len(wanted.texts)} texts; at most {service.limits.texts} in one request", "input"
        )
    exchange = exchange_of(request.scope)
    exchange.usage.model = wanted.model
    gone = False

    def left() -> bool:
        return gone or exchange.gone

    def stop() -> None:
        nonlocal gone
        gone = True

    exchange.stop = stop
    if (far := await service.far(wanted.model)) is not None:
        return await _far_vectors(service, far, wanted, exchange.usage)
    async with service.desk.use(wanted.model, wanted.keep_alive_s) as use:

        def compute() -> tuple[NDArray[np.float32], int]:
            embedder = use.resident.embedder()
            tokens = [_tokens(embedder, i, text, wanted) for i, text in enumerate(wanted.texts)]
            rows = embedder.vectors(tokens, normalize=wanted.normalize, gone=left)
            return rows, sum(map(len, tokens))

        rows, n_tokens = await service.desk.computed(compute)
        exchange.usage.prompt_tokens = n_tokens
        return Vectors(_cut(rows, wanted), n_tokens, use.load_s)


async def _far_vectors(service: Service, far: Far, wanted: Wanted, usage: Usage) -> Vectors:
    """Too long texts are cut or refused by who answers."""
    import numpy as np

    usage.model = far.name
    use = await service.far_use(far)
    found = await embedded(use, wanted.texts, wanted.dimensions)
    rows = np.array(found.rows, dtype=np.float32)
    if wanted.normalize:
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        rows = (rows / np.where(lengths == 0, 1.0, lengths)).astype(np.float32)
    usage.prompt_tokens = found.n_tokens or 0
    return Vectors(_cut(rows, wanted), found.n_tokens or 0, 0.0)


def _tokens(embedder: Embedder, i: int, text: str | Sequence[int], wanted: Wanted) -> Sequence[int]:
    tokens = embedder.tokenizer.encode(text) if isinstance(text, str) else text
    limit = embedder.n_tokens_max
    if len(tokens) > limit:
        if wanted.truncate:
            return tokens[:limit]
        raise UsageProblem(
            f"input {i} is {len(tokens)} tokens; at most {limit} are embedded at once here"
        )
    return tokens


def _cut(rows: NDArray[np.float32], wanted: Wanted) -> NDArray[np.float32]:
    import numpy as np

    n = wanted.dimensions
    if n is None or n == rows.shape[1]:
        return rows
    if n > rows.shape[1]:
        raise RequestProblem(
            f"dimensions is {n}; {wanted.model} makes vectors of {rows.shape[1]}", "dimensions"
        )
    short = rows[:, :n]
    lengths = np.linalg.norm(short.astype(np.float64), axis=1, keepdims=True)
    return (short / np.where(lengths == 0, 1.0, lengths)).astype(np.float32)
