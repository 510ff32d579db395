"""Texts to vectors beside the scheduler: one context, one thread, everyone's texts in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from localllm.closing import Closing
from localllm.engine.context import Context
from localllm.engine.embed import embed, embedding_options
from localllm.engine.model import Model
from localllm.engine.scheduler import Stopped
from localllm.errors import EngineError, Interrupted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_AT_ONCE = 16  # texts of one batch; who is gone is noticed between two


class Embedder(Closing):
    """Vectors of one model. Made at the first request for one, or with the model."""

    def __init__(self, model: Model, n_tokens_max: int, n_threads: int) -> None:
        """Texts of up to `n_tokens_max` tokens. A model that names no pooling gets the mean.

        Raises EngineError when there is no room for its context.
        """
        self._thread = ThreadPoolExecutor(1, "localllm-embed")
        self._n_open = 0
        self._lock = threading.Lock()
        self._closed = False
        self.context = _context(model, n_tokens_max, n_threads)
        self.tokenizer = model.tokenizer

    @property
    def n_tokens_max(self) -> int:
        return self.context.n_ubatch

    @property
    def idle(self) -> bool:
        return self._n_open == 0

    def vectors(
        self, texts: Sequence[Sequence[int]], *, normalize: bool, gone: Callable[[], bool]
    ) -> NDArray[np.float32]:
        """One vector a text, float32 [n_texts, n_embd]; blocks until they are there.

        Raises UsageProblem for a text that is too long or empty, Interrupted once `gone` says
        that nobody waits.
        """
        with self._lock:
            if self._closed:
                raise Stopped("the model was unloaded")
            self._n_open += 1
            work = self._thread.submit(self._compute, texts, normalize, gone)
        try:
            return work.result()
        finally:
            with self._lock:
                self._n_open -= 1

    def _compute(
        self, texts: Sequence[Sequence[int]], normalize: bool, gone: Callable[[], bool]
    ) -> NDArray[np.float32]:
        import numpy as np

        found = []
        for start in range(0, len(texts), _AT_ONCE):
            if gone() or self._closed:
                raise Interrupted("nobody waits for these vectors")
            found.append(embed(self.context, texts[start : start + _AT_ONCE], normalize=normalize))
        return np.concatenate(found)

    def close(self) -> None:
        """End the work under way, then free the context. May be called twice."""
        with self._lock:
            self._closed = True
        if not self.context.closed:
            self.context.abort()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self.context.close()


def _context(model: Model, n_tokens_max: int, n_threads: int) -> Context:
    options = embedding_options(n_tokens_max, n_seq_max=_AT_ONCE, n_threads=n_threads)
    context = Context(model, options)
    if _pools(context):
        return context
    context.close()
    return Context(
        model,
        embedding_options(n_tokens_max, n_seq_max=_AT_ONCE, pooling="mean", n_threads=n_threads),
    )


def _pools(context: Context) -> bool:
    from localllm.engine import native

    kind = int(native.lib().llama_pooling_type(context.handle))
    if kind == 4:  # LLAMA_POOLING_TYPE_RANK
        raise EngineError(f"{context.model.path.name} ranks documents; it makes no vectors")
    return kind > 0  # 0 is LLAMA_POOLING_TYPE_NONE
