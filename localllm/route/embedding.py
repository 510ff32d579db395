"""The embedding model that a name means: the small one in a package, or a GGUF of the registry."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from localllm.errors import UsageProblem
from localllm.library.find import find_gguf
from localllm.registry import Model, Registry
from localllm.route.embedders import GgufEmbedder, StaticEmbedder, static_embedder
from localllm.route.predictors.embedded import Embedder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STATIC = "static"
_GGUF = "gguf/"
_TOKENS = 1024  # of a text: attention's memory grows with it
_DIGEST = 12


class RegistryEmbedder:
    """An embedding model of the registry. Safe from several threads, one at a time."""

    def __init__(self, model: Model) -> None:
        from localllm.engine.context import Context
        from localllm.engine.embed import embedding_options
        from localllm.placement import PlanOptions, open_model

        self.name = name_of(model)
        self._opened = open_model(model.path, PlanOptions(n_ctx=256))
        self._lock = threading.Lock()
        try:
            options = embedding_options(_TOKENS, n_seq_max=4)
            self._inner = GgufEmbedder(Context(self._opened.model, options), self.name)
        except BaseException:
            self._opened.close()
            raise
        self.n_dims = self._inner.n_dims

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        with self._lock:
            return self._inner.embed(texts)


def embedder_named(name: str | None, registry: Registry) -> Embedder:
    """None or "static": the small one; a name that `name_of` gave, or a model's own name.

    Raises MissingExtra, ModelNotFound, and UsageProblem where the model has changed since.
    """
    if name is None or name == STATIC or name == StaticEmbedder.name:
        return static_embedder()
    text, _, digest = name.removeprefix(_GGUF).rpartition("#")
    model = find_gguf(text or name, registry)
    if digest and text and name_of(model) != name:
        raise UsageProblem(
            f"{text} is not the embedding model that this router was trained with",
            "train it again: localllm route train NAME --data FILE",
        )
    return RegistryEmbedder(model)


def name_of(model: Model) -> str:
    """Changes with the model's content."""
    digest = model.weights[0].sha256 if model.weights else None
    if digest is None:
        raise UsageProblem(f"{model.name} has no digest yet", f"localllm verify {model.name}")
    return f"{_GGUF}{model.name}#{digest[:_DIGEST]}"
