"""The few tokens that top_k, or greedy, can choose from, found before the sampler chain runs.

llama.cpp's samplers work on a list of {id, logit, p}; making it for a vocabulary of 262k
tokens takes 0.2 to 0.4 ms: 3 % of a 270M model's token, and that again for every sequence of a
batch. Where the chain begins with top_k, only the k largest logits matter: numpy finds a few
more than these in one pass over the row as it lies (0.08 ms, nothing copied), and the chain does
the rest in C on a list of a hundred. The choice is the same.
"""

from __future__ import annotations

import ctypes
from typing import Any

from localllm.engine import native
from localllm.engine.context import Context
from localllm.generation import Sampling

# Below this many tokens the list costs less than looking for a shorter one.
MIN_VOCAB = 16_384
_CAPACITY = 4096
_MAX_K = 128
_BLOCK = 512  # logits; the maxima of smaller ones take longer, larger ones are more to look at


class Shortlist:
    """For a chain that begins with top_k (k > 0) or is greedy (k = 1). Not for others."""

    def __init__(self, k: int, greedy: bool, n_vocab: int) -> None:
        import numpy as np

        llama = native.lib()
        self._k, self._greedy = k, greedy
        # at least four times as many blocks as are wanted: those few hold little else
        self._block = min(_BLOCK, 1 << max(0, (n_vocab // (4 * k)).bit_length() - 1))
        self._apply, self._accept = llama.llama_sampler_apply, llama.llama_sampler_accept
        self._list = (llama.llama_token_data * _CAPACITY)()
        self._table = np.frombuffer(
            self._list, dtype=np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
        )
        self._array = llama.llama_token_data_array(self._list, 0, -1, False)

    @staticmethod
    def of(sampling: Sampling, n_vocab: int) -> Shortlist | None:
        """For `sampling` without penalties or biases; None where it would not pay."""
        greedy = sampling.temperature == 0
        k = 1 if greedy else sampling.top_k
        return Shortlist(k, greedy, n_vocab) if n_vocab >= MIN_VOCAB and 0 < k <= _MAX_K else None

    def sample(self, chain: int, context: Context, index: int) -> int | None:
        """The token the chain chooses, accepted by it; None if it must see the whole row."""
        row = context.logits_view(index)
        if self._greedy:
            return int(row.argmax())
        near = self._near(row)
        if near is None:
            return None
        n = len(near)
        table, array = self._table[:n], self._array
        table["id"], table["logit"] = near, row[near]
        array.size, array.selected, array.sorted = n, -1, False
        self._apply(chain, ctypes.byref(array))
        token = int(self._list[array.selected].id)
        self._accept(chain, token)
        return token

    def _near(self, row: Any) -> Any:
        """Places, in order, of all logits that reach the k-th largest of the blocks' maxima: k at
        least, and everything that is larger. None for NaN, and where too many are equal."""
        import numpy as np

        n = len(row) // self._block * self._block
        blocks, rest = row[:n].reshape(-1, self._block), row[n:]
        largest = blocks.max(axis=1)
        line = np.partition(largest, -self._k)[-self._k]
        top = np.maximum(largest.max(), rest.max(initial=-np.inf))  # NaN if any is
        if not np.isfinite(top) or not np.isfinite(line):
            return None
        # Only these blocks hold any: about k of thousands.
        reaching = np.flatnonzero(largest >= line)
        found = np.flatnonzero(blocks.take(reaching, axis=0) >= line)
        near = reaching[found // self._block] * self._block + found % self._block
        if len(rest):
            near = np.concatenate((near, n + np.flatnonzero(rest >= line)))
        return near if len(near) <= _CAPACITY else None
