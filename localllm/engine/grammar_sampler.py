"""A grammar that holds beside a sampler chain."""

from __future__ import annotations

import ctypes
import math
from typing import Any

from localllm.engine import native
from localllm.engine.context import Context
from localllm.engine.grammar import check_grammar
from localllm.engine.handle import NativeObject
from localllm.engine.tokenizer import Tokenizer
from localllm.errors import EngineError, UsageProblem


class GrammarSampler(NativeObject):
    """A grammar beside the chain, asked only about the token that the chain chose.

    Checking a whole vocabulary costs tens of milliseconds at 262k tokens. So, as in
    llama.cpp's own programs: draw without the grammar first, and only if that token does
    not fit, draw again from what the grammar leaves. (Inside the chain it would also end
    the process when it leaves nothing.)
    """

    kind = "grammar"

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        check_grammar(text, tokenizer.token_id)
        self._llama = llama = native.lib()
        with native.capture() as log:
            handle = llama.llama_sampler_init_grammar(
                tokenizer.vocab_handle, text.encode("utf-8", "replace"), b"root"
            )
        if not handle:
            raise UsageProblem(f"the grammar cannot be used: {native.reason(log)}")
        super().__init__(handle, llama.llama_sampler_free, [tokenizer])
        self.tokenizer = tokenizer

    def sample(self, chain: int, context: Context, index: int) -> int:
        """What `chain` chooses among what fits here, accepted by both. Raises EngineError where
        nothing fits."""
        llama = self._llama
        array = self._fill(context, index)
        llama.llama_sampler_apply(chain, ctypes.byref(array))
        token = int(array.data[array.selected].id) if array.selected >= 0 else -1
        if token < 0 or not self._fits(token):
            array = self._fill(context, index)
            llama.llama_sampler_apply(self.handle, ctypes.byref(array))
            llama.llama_sampler_apply(chain, ctypes.byref(array))
            token = int(array.data[array.selected].id) if array.selected >= 0 else -1
            # All refused leaves every logit at -inf and some token chosen all the same;
            # accepting it would end the process.
            if token < 0 or not self._fits(token):
                raise EngineError("no token of this model can continue the grammar here")
        llama.llama_sampler_accept(self.handle, token)
        llama.llama_sampler_accept(chain, token)
        return token

    def take(self, token: int) -> bool:
        """Accept a token that was written without the grammar. False where it does not fit."""
        if not self._fits(token):
            return False
        self._llama.llama_sampler_accept(self.handle, token)
        return True

    def _fits(self, token: int) -> bool:
        one = (self._llama.llama_token_data * 1)((token, 1.0, 0.0))
        array = self._llama.llama_token_data_array(one, 1, -1, False)
        self._llama.llama_sampler_apply(self.handle, ctypes.byref(array))
        return float(one[0].logit) != -math.inf

    def _fill(self, context: Context, index: int) -> Any:
        """Every token with its logit, unsorted: the samplers reorder what they are given.

        In the context's own room: at a vocabulary of 262k that is 3 MB, which each of hundreds of
        waiting requests would have otherwise.
        """
        import numpy as np

        candidates = context.candidates
        table = np.frombuffer(
            candidates, dtype=np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
        )
        table["id"] = np.arange(len(table), dtype=np.int32)
        table["logit"] = context.logits_view(index)
        table["p"] = 0
        return self._llama.llama_token_data_array(candidates, len(table), -1, False)
