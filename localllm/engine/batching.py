"""A llama_batch in numpy arrays: filled a run of tokens at a time, for any sequences."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from localllm.closing import Closing
from localllm.engine import native


class TokenBatch(Closing):
    """Room for `capacity` tokens, each of one sequence.

    The arrays are ours, not llama_batch_init's: that one allocates a list of sequences for each
    token, and filling those one by one costs more than the rest of a step's Python. Here all
    tokens of a sequence point to the same number.
    """

    def __init__(self, capacity: int) -> None:
        import numpy as np

        llama = native.lib()
        self.capacity = capacity
        self._ids = np.arange(llama.llama_max_parallel_sequences(), dtype=np.int32)
        self._first_id: int = self._ids.ctypes.data  # address of sequence 0's number
        self._places = np.arange(capacity, dtype=np.int32)
        self._tokens = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._n_ids = np.ones(capacity, dtype=np.int32)
        self._id_pointers = np.zeros(capacity, dtype=np.uintp)
        self._outputs = np.zeros(capacity, dtype=np.int8)
        self._n = 0
        self.native: Any = llama.llama_batch()
        for name, array in (
            ("token", self._tokens),
            ("pos", self._positions),
            ("n_seq_id", self._n_ids),
            ("seq_id", self._id_pointers),
            ("logits", self._outputs),
        ):
            kind = type(getattr(self.native, name))
            setattr(self.native, name, ctypes.cast(ctypes.c_void_p(array.ctypes.data), kind))

    def __len__(self) -> int:
        return self._n

    @property
    def room(self) -> int:
        return self.capacity - self._n

    def clear(self) -> None:
        self._n = self.native.n_tokens = 0

    def add(self, token: int, position: int, sequence: int, *, output: bool) -> int:
        """Append a token; its index, by which its logits are found after decoding."""
        i = self._n
        assert i < self.capacity, "the batch is full"  # past it lies foreign memory
        self._tokens[i] = token
        self._positions[i] = position
        self._id_pointers[i] = self._first_id + 4 * sequence
        self._outputs[i] = output
        self._n = self.native.n_tokens = i + 1
        return i

    def extend(self, tokens: Sequence[int], position: int, sequence: int, *, output: bool) -> int:
        """Append a run of one sequence's tokens from `position` on; the index of the last.

        `output` asks for the logits of the last one. `tokens` best supports the buffer protocol.
        """
        i, n = self._n, len(tokens)
        end = i + n
        assert n > 0 and end <= self.capacity, "the batch is full"
        self._tokens[i:end] = tokens
        self._positions[i:end] = self._places[:n]
        self._positions[i:end] += position
        self._id_pointers[i:end] = self._first_id + 4 * sequence
        self._outputs[i:end] = 0
        self._outputs[end - 1] = output
        self._n = self.native.n_tokens = end
        return end - 1

    @property
    def n_outputs(self) -> int:
        return int(self._outputs[: self._n].sum())

    def ask_more(self, n: int) -> None:
        """Ask for the logits of `n` more tokens, any that there are."""
        import numpy as np

        self._outputs[np.flatnonzero(self._outputs[: self._n] == 0)[:n]] = 1

    def close(self) -> None:
        """The arrays are freed with the object."""
        self.native.n_tokens = 0
