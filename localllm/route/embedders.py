"""Embedding models on this machine, for predictors.embedded.

`static_embedder` needs the extra `route` and nothing else: its weights are in the package
(wordllama, 256 numbers a word piece, averaged; a fifth of a millisecond a prompt).
`GgufEmbedder` takes any embedding model that llama.cpp runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.errors import EngineError, MissingExtra, UsageProblem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from localllm.engine.context import Context

_STATIC_DIMS = 256


class StaticEmbedder:
    """Averaged vectors of word pieces: no context, but alike words are alike."""

    name = f"wordllama/l2_supercat_{_STATIC_DIMS}"
    n_dims = _STATIC_DIMS

    def __init__(self, inference: Any) -> None:
        self._inference = inference

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import numpy as np

        if not texts:
            return np.zeros((0, self.n_dims), dtype=np.float32)
        # one at a time: a batch is padded to its longest text
        rows = [self._inference.embed([text])[0] for text in texts]
        return _unit(np.array(rows, dtype=np.float32))


def static_embedder() -> StaticEmbedder:
    """Raises MissingExtra where the package is not installed. Downloads nothing."""
    try:
        import wordllama  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "the small embedding model is not installed", 'pip install "localllm[route]"'
        ) from error
    try:
        # It looks for its tokenizer in the package's folder `tokenizer`, which is `tokenizers`;
        # as a cache the package's own folder holds both
        inside = Path(wordllama.__file__).parent
        inference = wordllama.WordLlama.load(
            dim=_STATIC_DIMS, cache_dir=inside, disable_download=True
        )
    except FileNotFoundError as error:
        raise MissingExtra(
            "the wordllama that is installed has no weights in it",
            'pip install --force-reinstall "localllm[route]"',
        ) from error
    return StaticEmbedder(inference)


class GgufEmbedder:
    """Vectors from a context made with engine.embed.embedding_options; the caller closes it.

    `name` should change with the model's content (its sha256, say), since a router trained on
    one model's vectors means nothing on another's. Texts are cut to the context's batch.
    """

    def __init__(self, context: Context, name: str) -> None:
        if not context.options.embeddings:
            raise EngineError("this context was not made for embeddings")
        self.name = name
        self.n_dims = int(context.model.info.n_embd_out)
        self._context = context

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        from localllm.engine.embed import embed

        tokenizer = self._context.model.tokenizer
        tokens = [tokenizer.encode(text)[: self._context.n_ubatch] for text in texts]
        if any(not row for row in tokens):
            raise UsageProblem("a text without a single token has no embedding")
        return embed(self._context, tokens)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    # a text with no known word piece comes as NaN from an average over nothing
    clean = np.nan_to_num(rows)
    lengths = np.linalg.norm(clean, axis=1, keepdims=True)
    return np.asarray(clean / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)
