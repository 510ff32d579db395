"""A llama_batch that is filled token by token, for any sequences."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from localllm.engine import native


class TokenBatch:
    """Room for `capacity` tokens, each of one sequence. Free it with `close` or `with`."""

    def __init__(self, capacity: int) -> None:
        self._llama = native.lib()
        self.native: Any = self._llama.llama_batch_init(capacity, 0, 1)
        self.capacity = capacity
        self._open = True

    def __len__(self) -> int:
        return int(self.native.n_tokens)

    @property
    def room(self) -> int:
        return self.capacity - len(self)

    def clear(self) -> None:
        self.native.n_tokens = 0

    def add(self, token: int, position: int, sequence: int, *, output: bool) -> int:
        """Append a token; its index, by which its logits are found after decoding."""
        batch = self.native
        i = int(batch.n_tokens)
        assert i < self.capacity, "the batch is full"  # past it lies foreign memory
        batch.token[i] = token
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = sequence
        batch.logits[i] = output
        batch.n_tokens = i + 1
        return i

    def close(self) -> None:
        if self._open:
            self._open = False
            self._llama.llama_batch_free(self.native)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
