"""The few tokens that top_k, or greedy, can choose from, found before the sampler chain runs.

llama.cpp's samplers work on a list of {id, logit, p}; making it for a vocabulary of 262k
tokens takes 0.2 to 0.4 ms: 3 % of a 270M model's token, and that again for every sequence of a
batch. Where the chain begins with top_k, only the k largest logits matter: numpy finds those
near the maximum in the row as it lies (0.08 ms, nothing copied), and the chain does the rest
in C on a list of hundreds. The choice is the same.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

from localllm.engine import native
from localllm.engine.context import Context
from localllm.generation import Sampling

# Below this many tokens the list costs less than looking for a shorter one.
MIN_VOCAB = 16_384
_CAPACITY = 4096
_MAX_K = 128


class Shortlist:
    """For a chain that begins with top_k (k > 0) or is greedy (k = 1). Not for others."""

    def __init__(self, k: int, greedy: bool) -> None:
        import numpy as np

        llama = native.lib()
        self._k, self._greedy = k, greedy
        self._margin = 16.0  # how far below the maximum the k-th logit was lately
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
        return Shortlist(k, greedy) if n_vocab >= MIN_VOCAB and 0 < k <= _MAX_K else None

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
        """Places of all logits above some line that at least k are above, in order."""
        import numpy as np

        top = float(row.max())
        if not math.isfinite(top):
            return None
        for _ in range(5):
            near = np.flatnonzero(row > top - self._margin)
            if len(near) < self._k:
                self._margin *= 1.5
            elif len(near) > _CAPACITY:
                self._margin *= 0.7
            else:
                kth = float(np.partition(row[near], -self._k)[-self._k])
                self._margin = max(1.2 * (top - kth), 1e-3)
                return near
        return None
