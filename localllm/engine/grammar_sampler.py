"""A grammar that holds beside a sampler chain."""

from __future__ import annotations

import ctypes
import math
from typing import Any

from localllm.engine import native
from localllm.engine.context import Context
from localllm.engine.matching.desk import desk_of
from localllm.engine.matching.walker import Walker
from localllm.engine.tokenizer import Tokenizer
from localllm.errors import EngineError


class GrammarSampler:
    """A grammar beside the chain, asked only about the token that the chain chose.

    As in llama.cpp's own programs: draw without the grammar first, and only if that token does
    not fit, draw again from what the grammar leaves. llama.cpp's own grammar sampler is not
    used: see localllm/engine/matching.

    Raises UsageProblem for what is no grammar, and TooManyWays for one that cannot be followed.
    """

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self._llama = native.lib()
        self.tokenizer = tokenizer
        self._walker = Walker(tokenizer, desk_of(tokenizer).engage(tokenizer, text))
        self._walker.prove()

    def sample(self, chain: int, context: Context, index: int) -> int:
        """What `chain` chooses among what fits here, accepted by both. Raises EngineError where
        nothing fits, TooManyWays where what was written can be read in too many ways."""
        token = self._drawn(chain, self._fill(context, index))
        if token < 0 or not self._walker.take(token):
            token = self._drawn(chain, self._fill(context, index, self._walker.choices()))
            if token < 0 or not self._walker.take(token):
                raise EngineError("no token of this model can continue the grammar here")
        self._llama.llama_sampler_accept(chain, token)
        return token

    def take(self, token: int) -> bool:
        """Accept a token that was written without the grammar. False where it does not fit."""
        return self._walker.take(token)

    def _drawn(self, chain: int, array: Any) -> int:
        """What the chain chooses of these; -1 where it chooses none, or one that a bias forbids
        since nothing else is left."""
        if array.size:
            self._llama.llama_sampler_apply(chain, ctypes.byref(array))
        if array.selected < 0:
            return -1
        chosen = array.data[array.selected]
        return int(chosen.id) if chosen.logit != -math.inf else -1

    def _fill(self, context: Context, index: int, tokens: Any = None) -> Any:
        """`tokens`, or every one, with its logit, unsorted: the samplers reorder what they are
        given.

        In the context's own room: at a vocabulary of 262k that is 3 MB, which each of hundreds of
        waiting requests would have otherwise.
        """
        import numpy as np

        candidates = context.candidates
        table = np.frombuffer(
            candidates, dtype=np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
        )
        row = context.logits_view(index)
        if tokens is not None:
            table, row = table[: len(tokens)], row[tokens]
        table["id"] = np.arange(len(table), dtype=np.int32) if tokens is None else tokens
        table["logit"] = row
        table["p"] = 0
        return self._llama.llama_token_data_array(candidates, len(table), -1, False)
