"""Texts to vectors beside the scheduler: one context, one thread, everyone's texts in turn.

The context is made by a plan (placement.vectors), with the model where it only embeds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from localllm.closing import Closing
from localllm.engine.context import Context
from localllm.engine.embed import embed
from localllm.engine.scheduler import Stopped
from localllm.errors import EngineError, Interrupted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from localllm.placement import ContextNeed


class Embedder(Closing):
    """Vectors of one model. Made at the first request for one, or with the model."""

    def __init__(
        self, context: Context, n_tokens_max: int, need: ContextNeed | None = None
    ) -> None:
        """`context` is of placement's vector_options, and this one's to close. `need` is what it
        takes beside the model, None where it is part of the model's own plan.

        Raises EngineError for a model that ranks, and makes no vectors.
        """
        _check(context)
        self._thread = ThreadPoolExecutor(1, "localllm-embed")
        self._n_open = 0
        self._lock = threading.Lock()
        self._closed = False
        self.context = context
        self.need = need
        self.tokenizer = context.model.tokenizer
        self.n_tokens_max = n_tokens_max

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
        at_once = self.context.n_seq_max  # who is gone is noticed between two
        for start in range(0, len(texts), at_once):
            if gone() or self._closed:
                raise Interrupted("nobody waits for these vectors")
            found.append(embed(self.context, texts[start : start + at_once], normalize=normalize))
        return np.concatenate(found)

    def close(self) -> None:
        """End the work under way, then free the context. May be called twice."""
        with self._lock:
            self._closed = True
        if not self.context.closed:
            self.context.abort()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self.context.close()


def _check(context: Context) -> None:
    from localllm.engine import native

    kind = int(native.lib().llama_pooling_type(context.handle))
    if kind == 4:  # LLAMA_POOLING_TYPE_RANK
        raise EngineError(f"{context.model.path.name} ranks documents; it makes no vectors")
