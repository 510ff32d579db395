"""One conversation in one context: reuse of what is cached, prompt in, tokens out."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Mapping, Sequence

from localllm.engine import native
from localllm.engine.context import Context
from localllm.engine.sampling import Sampler
from localllm.engine.stream import TokenStream
from localllm.engine.vision.prompt import MediaPrompt, whole_images
from localllm.errors import EngineError, UsageProblem
from localllm.generation import Sampling


class Session:
    """Sequence 0 of a context, and which tokens of it are in memory.

    Each prompt is compared with what the memory holds, and only the rest is computed: the
    next turn of a conversation costs its new tokens. One stream at a time.
    """

    _stream_type = TokenStream

    def __init__(self, context: Context) -> None:
        context.require_generation()
        self.context = context
        self.tokenizer = context.model.tokenizer
        self._tokens: list[int] = []
        self._unfinished = False  # a computation was begun and did not report back
        self._single = (ctypes.c_int32 * 1)()
        self._batch = native.lib().llama_batch_get_one(self._single, 1)
        self._busy = threading.Lock()
        self.output = -1  # where the logits of the latest token are in the last batch

    def stream(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        logit_bias: Mapping[int, float] | None = None,
        started: float | None = None,
        media: MediaPrompt | None = None,
    ) -> TokenStream:
        """Generate after `prompt`; nothing is computed before the stream is read.

        With `media` (see Vision.read) `prompt` must be its tokens. `started` is when the caller's
        work began (time.perf_counter), for `first_token_s`.
        Raises UsageProblem for an empty prompt, one that is longer than the context (it is
        never shortened), and sampling values out of range.
        """
        limit = self.context.n_ctx_seq
        if not prompt:
            raise UsageProblem("the prompt is empty")
        if len(prompt) > limit:
            raise UsageProblem(
                f"the prompt is {len(prompt)} tokens, the context holds {limit}",
                f"use a larger context: --ctx {len(prompt) + 256}",
            )
        if media is not None:
            media.check(self.context)
        n_vocab = self.tokenizer.n_vocab
        outside = [token for token in prompt if not 0 <= token < n_vocab]
        if outside and (media is None or max(outside) >= 0):
            raise UsageProblem(f"{outside[0]} is no token of this model")
        sampler = Sampler(self.tokenizer, sampling, logit_bias, n_ctx=limit)
        begun = time.perf_counter() if started is None else started
        return self._stream_type(self, tuple(prompt), sampling, sampler, begun, media)

    @property
    def cached_tokens(self) -> tuple[int, ...]:
        """What the memory holds: a prompt that begins so is computed from there on."""
        self._settle()
        return tuple(self._tokens)

    def reset(self) -> None:
        """Forget everything, as one must after attaching an adapter."""
        self.context.clear()
        self._tokens.clear()
        self._unfinished = False

    # --- for TokenStream -----------------------------------------------------------------

    def abort(self) -> None:
        """End what is being computed, and all that follows until `arm`; from any thread."""
        self.context.abort()

    def arm(self) -> None:
        self.context.arm()

    def acquire(self) -> None:
        if not self._busy.acquire(blocking=False):
            raise EngineError("this session is still generating; cancel that stream first")

    def release(self) -> None:
        self._busy.release()

    def process(self, prompt: Sequence[int], media: MediaPrompt | None = None) -> int:
        """Make the memory hold `prompt`, with logits of its last token; the cached tokens.

        The last token is always computed again: its logits are what comes next.
        """
        self._settle()
        common = self.context.truncate(self._shared(prompt))
        self._tokens, self._unfinished = list(prompt), True
        if media is None:
            self.context.prefill(prompt[common:])
        else:
            media.fill(self.context, common)
        self._unfinished = False
        return common

    def advance(self, token: int, left: int | None = None) -> None:
        """Append a generated token, of which at most `left` more will be asked for."""
        self._unfinished = True
        self._single[0] = token
        self.context.decode(self._batch)
        self._tokens.append(token)
        self._unfinished = False

    def _shared(self, prompt: Sequence[int]) -> int:
        """Tokens of `prompt` that are in memory and need not be computed."""
        common = _common(self._tokens, prompt[:-1])
        return whole_images(prompt, common)

    def _settle(self) -> None:
        """Make `_tokens` what the memory holds, after an interrupt at any place."""
        info = self.context.model.info
        if self._unfinished and (info.is_recurrent or info.is_hybrid):
            self.reset()  # a state half updated is of no use, and cannot be taken back
        length = self.context.length()
        if length > len(self._tokens):
            length = self.context.truncate(len(self._tokens))
        del self._tokens[length:]
        self._unfinished = False


def _common(held: Sequence[int], wanted: Sequence[int]) -> int:
    """Length of the common beginning."""
    pairs = enumerate(zip(held, wanted, strict=False))
    differing = (i for i, (one, other) in pairs if one != other)
    return next(differing, min(len(held), len(wanted)))
