"""One answer being written: its sampler, its text, its clock."""

from __future__ import annotations

import time
from dataclasses import replace

from localllm.engine.context import Context
from localllm.engine.sampling import MAX_SEED, Sampler
from localllm.engine.scheduler.request import Event, Request, TokenLogprobs
from localllm.engine.scheduler.scores import token_logprobs
from localllm.engine.text import StopMatcher, Utf8Assembler
from localllm.engine.tokenizer import Tokenizer
from localllm.errors import LocalLLMError
from localllm.generation import Accounting, FinishReason


class Sample:
    """Sample `index` of a request. Driven by one thread."""

    def __init__(
        self,
        context: Context,
        tokenizer: Tokenizer,
        request: Request,
        index: int,
        submitted: float,
    ) -> None:
        sampling = request.sampling
        if index and sampling.seed is not None:
            sampling = replace(sampling, seed=(sampling.seed + index) % (MAX_SEED + 1))
        self._piece = tokenizer.special_piece if sampling.special else tokenizer.piece
        self._eog = frozenset() if request.ignore_eog else tokenizer.eog_tokens
        self._limit = context.n_ctx_seq
        self._sampler = Sampler(tokenizer, sampling, request.logit_bias, n_ctx=self._limit)
        said = request.prompt
        if request.media is not None:  # numbers below zero stand for images
            said = [token for token in said if token >= 0]
        self._sampler.accept_prompt(said)
        self._utf8 = Utf8Assembler()
        self._stop = StopMatcher(sampling.stop)
        self._max_tokens = sampling.max_tokens
        self._n_prompt = request.n_cells
        self._logprobs = request.logprobs
        self.index = index
        self.n_tokens = 0
        self.cached_tokens = 0
        self.prompt_s = 0.0
        self._submitted = submitted
        self._first_at = self._last_at = 0.0

    def take(self, context: Context, output: int, begun_at: float) -> tuple[int, Event]:
        """Choose the next token from row `output` of the last batch; it, and what to tell.

        `begun_at` is when the prompt's computation began (time.perf_counter).
        Raises EngineError where there is nothing to choose: NaN, or a grammar at its end.
        """
        if self.n_tokens == 0:
            context.check_logits(output)
        token = self._sampler.sample(context, output)
        logprobs = None
        if self._logprobs is not None:
            logprobs = token_logprobs(context.logits_view(output), token, self._logprobs)
        self._last_at = time.perf_counter()
        if self.n_tokens == 0:
            self._first_at = self._last_at
            self.prompt_s = self._last_at - begun_at
        self.n_tokens += 1
        if token in self._eog:
            return token, self.end("stop", token=token, logprobs=logprobs)
        text = self._stop.feed(self._utf8.feed(self._piece(token)))
        reason = self.limit()
        if reason is None:
            return token, Event(self.index, text, token, logprobs)
        return token, self.end(reason, text, token, logprobs)

    def limit(self) -> FinishReason | None:
        """Why no further token may be sampled, None if one may."""
        if self._stop.stopped:
            return "stop"
        if self.n_tokens == self._max_tokens:
            return "length"
        # The last token sampled is not in the context yet; it must fit to go on.
        return "context" if self._n_prompt + self.n_tokens > self._limit else None

    def end(
        self,
        reason: FinishReason,
        text: str = "",
        token: int | None = None,
        logprobs: TokenLogprobs | None = None,
        error: LocalLLMError | None = None,
    ) -> Event:
        """The last event. What a stop string that did not come held back is shown with it."""
        self._sampler.close()
        shown = text + (self._stop.finish() if reason != "cancelled" else "")
        return Event(self.index, shown, token, logprobs, self._account(reason), error)

    def discard(self) -> None:
        """It will not be used."""
        self._sampler.close()

    def _account(self, reason: FinishReason) -> Accounting:
        begun = self.n_tokens > 0
        return Accounting(
            prompt_tokens=self._n_prompt,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.n_tokens,
            prompt_s=self.prompt_s,
            decode_s=self._last_at - self._first_at,
            first_token_s=self._first_at - self._submitted if begun else 0.0,
            finish_reason=reason,
            seed=self._sampler.seed,
            truncated=reason == "context",
        )
