"""Taking back tokens that turned out wrong, whatever kind of memory holds them."""

from __future__ import annotations

from collections.abc import Sequence

from localllm.engine.batching import TokenBatch
from localllm.engine.context import Context
from localllm.errors import EngineError


class Undo:
    """Sequence 0 of `context`, back to how it was at `mark`, or to any place after it.

    Attention and sliding windows drop the tokens (a window is n_ubatch longer than what a token
    sees, so it still holds what was visible before a short draft). A recurrent state cannot go
    back: it is copied at `mark`, put back, and what is to stay is computed again, as llama.cpp's
    server does.
    """

    def __init__(self, context: Context, batch: TokenBatch) -> None:
        """`batch` is used for what has to be computed again."""
        self._context = context
        self._batch = batch
        self._copies = context.sequences.kind == "state"
        self._saved = b""
        self.marked: int | None = None  # tokens at the mark

    def mark(self, n_tokens: int) -> None:
        """The memory holds `n_tokens` now. Raises EngineError when a state cannot be copied."""
        if self._copies and n_tokens:
            self._saved = self._context.sequences.save(0, whole=False)
            if not self._saved:
                raise EngineError("llama.cpp could not copy the state of this model")
        self.marked = n_tokens

    def back(self, tokens: Sequence[int], n_keep: int) -> None:
        """Hold the first `n_keep` of `tokens`, as many as at the mark at least, and no more.

        Raises EngineError when a state cannot be put back, and what `Context.decode` raises.
        """
        kept = self._restored() if self._copies else self._context.truncate(n_keep)
        for start in range(kept, n_keep, self._batch.capacity):
            end = min(n_keep, start + self._batch.capacity)
            self._batch.clear()
            self._batch.extend(tokens[start:end], start, 0, output=False)
            self._context.decode(self._batch.native)

    def _restored(self) -> int:
        """The state as it was at the mark; its tokens."""
        sequences, n_tokens = self._context.sequences, self.marked
        assert n_tokens is not None
        if n_tokens == 0:
            sequences.remove(0)
            return 0
        if not sequences.restore(0, self._saved, whole=False):
            raise EngineError("llama.cpp could not put back the state of this model")
        sequences.prune(0, n_tokens)  # the attention layers' part of a hybrid
        return n_tokens
