"""The C-side sampler chain for one sequence, made from `Sampling`.

Order as llama.cpp's default: logit bias, penalties, DRY, top_n_sigma, top_k, typical_p, top_p,
min_p, XTC, temperature (dynamic with a range), then a draw by the seed; greedy at temperature 0.
With mirostat only temperature stands between the penalties and its own draw. (llama.cpp leaves
the penalties out there too; they are the user's wish, so here they count.)
"""

from __future__ import annotations

import ctypes
import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from localllm.engine import native
from localllm.engine.context import Context
from localllm.engine.grammar_sampler import GrammarSampler
from localllm.engine.handle import NativeObject
from localllm.engine.shortlist import Shortlist
from localllm.engine.tokenizer import Tokenizer
from localllm.engine.triggers import Trigger, offer
from localllm.errors import UsageProblem
from localllm.generation import Sampling

# llama.cpp reads this one as "draw a seed"
_RANDOM_SEED = 0xFFFFFFFF
MAX_SEED = _RANDOM_SEED - 1
_MIROSTAT_M = 100  # tokens that mirostat 1 estimates from, as in its paper
_MAX_BREAKERS = 64


def check_sampling(sampling: Sampling) -> None:
    """Raise UsageProblem for a value that llama.cpp has no meaning for."""
    big = 2**31 - 1
    ranges = (
        ("temperature", sampling.temperature, 0, big),
        ("top_k", sampling.top_k, 0, big),
        ("top_p", sampling.top_p, 0, 1),
        ("min_p", sampling.min_p, 0, 1),
        ("typical_p", sampling.typical_p, 0, 1),
        ("repeat_penalty", sampling.repeat_penalty, 1e-6, big),  # logits are divided by it
        ("repeat_last_n", sampling.repeat_last_n, -1, big),
        ("presence_penalty", sampling.presence_penalty, -big, big),
        ("frequency_penalty", sampling.frequency_penalty, -big, big),
        ("top_n_sigma", sampling.top_n_sigma, 0, big),
        ("dry_multiplier", sampling.dry_multiplier, 0, big),
        ("dry_base", sampling.dry_base, 1, big),  # below, llama.cpp switches it off in silence
        ("dry_allowed_length", sampling.dry_allowed_length, 0, big),
        ("dry_penalty_last_n", sampling.dry_penalty_last_n, -1, big),
        ("xtc_probability", sampling.xtc_probability, 0, 1),
        ("xtc_threshold", sampling.xtc_threshold, 0, 1),
        ("dynatemp_range", sampling.dynatemp_range, 0, big),
        ("dynatemp_exponent", sampling.dynatemp_exponent, 0, big),
        ("mirostat", sampling.mirostat, 0, 2),
        ("mirostat_tau", sampling.mirostat_tau, 0, big),
        ("mirostat_eta", sampling.mirostat_eta, 0, big),
        ("seed", sampling.seed or 0, 0, MAX_SEED),
        ("max_tokens", sampling.max_tokens or 0, 0, big),
    )
    for name, value, low, high in ranges:
        if not (math.isfinite(value) and low <= value <= high):
            raise UsageProblem(f"{name} {value} is outside {low} to {high}")
    if len(sampling.dry_sequence_breakers) > _MAX_BREAKERS:
        raise UsageProblem(f"at most {_MAX_BREAKERS} dry_sequence_breakers")


class Sampler(NativeObject):
    """Chooses one sequence's tokens. Its state (penalties, grammar, RNG) is that sequence's.

    Raises UsageProblem for values out of range and for a grammar that cannot be used.
    """

    kind = "sampler"

    def __init__(
        self,
        tokenizer: Tokenizer,
        sampling: Sampling,
        logit_bias: Mapping[int, float] | None = None,
        n_ctx: int = 0,
    ) -> None:
        """`n_ctx` is what repeat_last_n -1 stands for."""
        check_sampling(sampling)
        self._llama = llama = native.lib()
        self.seed = secrets.randbelow(_RANDOM_SEED) if sampling.seed is None else sampling.seed
        self._grammar = GrammarSampler(tokenizer, sampling.grammar) if sampling.grammar else None
        awaits = self._grammar is not None and sampling.grammar_triggers
        self._trigger = Trigger(tokenizer, sampling.grammar_triggers) if awaits else None
        chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        super().__init__(chain, llama.llama_sampler_free)
        for link in _links(llama, tokenizer, sampling, logit_bias or {}, n_ctx, self.seed):
            llama.llama_sampler_chain_add(chain, link)
        self._last_n = max(_penalty_last_n(sampling, n_ctx), _dry_last_n(sampling, n_ctx))
        changed = (
            self._last_n
            or sampling.top_n_sigma
            or sampling.xtc_probability  # it moves the list's beginning
            or (sampling.mirostat and sampling.temperature)
        )
        untouched = not (logit_bias or tokenizer.suppressed or changed)
        self._shortlist = Shortlist.of(sampling, tokenizer.n_vocab) if untouched else None

    def sample(self, context: Context, index: int = -1) -> int:
        """Choose and accept a token from the logits of output `index` of the last batch."""
        with context.lock:
            if self._grammar is not None and self._trigger is None:
                return self._grammar.sample(self.handle, context, index)
            token = self._free(context, index)
            if self._trigger is not None and (after := self._trigger.watch(token)) is not None:
                self._begin_grammar(after)
            return token

    def _free(self, context: Context, index: int) -> int:
        """Without a grammar."""
        if self._shortlist is not None:
            token = self._shortlist.sample(self.handle, context, index)
            if token is not None:
                return token
        return int(self._llama.llama_sampler_sample(self.handle, context.handle, index))

    def _begin_grammar(self, written: bytes) -> None:
        """From here on the grammar holds, of which `written` is there already. Where that does
        not fit, the answer goes on without it."""
        self._trigger = None
        grammar = self._grammar
        if grammar is not None and not offer(grammar.tokenizer, written, grammar.take):
            self._grammar = None

    def accept_prompt(self, tokens: Sequence[int]) -> None:
        """Let the penalties see the prompt. The grammar starts after it."""
        if self._last_n:
            for token in tokens[-self._last_n :]:
                self._llama.llama_sampler_accept(self.handle, token)

    def close(self) -> None:
        self._grammar = None
        super().close()


def _penalty_last_n(sampling: Sampling, n_ctx: int) -> int:
    """How many tokens back repetition counts; 0 where nothing is penalized."""
    penalties = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
    if penalties == (1.0, 0.0, 0.0):
        return 0
    return n_ctx if sampling.repeat_last_n < 0 else sampling.repeat_last_n


def _dry_last_n(sampling: Sampling, n_ctx: int) -> int:
    """How far back DRY looks for repetitions; 0 where it is off."""
    if sampling.dry_multiplier == 0:
        return 0
    return n_ctx if sampling.dry_penalty_last_n < 0 else sampling.dry_penalty_last_n


def _links(
    llama: Any,
    tokenizer: Tokenizer,
    sampling: Sampling,
    logit_bias: Mapping[int, float],
    n_ctx: int,
    seed: int,
) -> list[int]:
    links = _biases(llama, tokenizer, logit_bias)
    links += _repetition(llama, tokenizer, sampling, n_ctx)
    if sampling.temperature == 0:
        return [*links, llama.llama_sampler_init_greedy()]
    if sampling.mirostat:
        return [*links, *_mirostat(llama, tokenizer, sampling, seed)]
    links += _truncation(llama, sampling, seed)
    temperature = (sampling.temperature, sampling.dynatemp_range, sampling.dynatemp_exponent)
    links.append(llama.llama_sampler_init_temp_ext(*temperature))
    links.append(llama.llama_sampler_init_dist(seed))
    return links


def _biases(llama: Any, tokenizer: Tokenizer, logit_bias: Mapping[int, float]) -> list[int]:
    bias = dict.fromkeys(tokenizer.suppressed, -math.inf) | dict(logit_bias)
    if not bias:
        return []
    array = (llama.llama_logit_bias * len(bias))(*bias.items())
    return [llama.llama_sampler_init_logit_bias(tokenizer.n_vocab, len(bias), array)]


def _repetition(llama: Any, tokenizer: Tokenizer, sampling: Sampling, n_ctx: int) -> list[int]:
    links: list[int] = []
    if last_n := _penalty_last_n(sampling, n_ctx):
        links.append(
            llama.llama_sampler_init_penalties(
                tokenizer.n_vocab,
                last_n,
                sampling.repeat_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            )
        )
    if last_n := _dry_last_n(sampling, n_ctx):
        # An empty one would be read past its end
        words = [b.encode("utf-8", "replace") for b in sampling.dry_sequence_breakers if b]
        links.append(
            llama.llama_sampler_init_dry(
                tokenizer.vocab_handle,
                sampling.dry_multiplier,
                sampling.dry_base,
                sampling.dry_allowed_length,
                last_n,
                (ctypes.c_char_p * len(words))(*words),
                len(words),
            )
        )
    return links


def _truncation(llama: Any, sampling: Sampling, seed: int) -> list[int]:
    links: list[int] = []
    if sampling.top_n_sigma > 0:
        links.append(llama.llama_sampler_init_top_n_sigma(sampling.top_n_sigma))
    if sampling.top_k > 0:
        links.append(llama.llama_sampler_init_top_k(sampling.top_k))
    if sampling.typical_p < 1:
        links.append(llama.llama_sampler_init_typical(sampling.typical_p, 1))
    if sampling.top_p < 1:
        links.append(llama.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        links.append(llama.llama_sampler_init_min_p(sampling.min_p, 1))
    if sampling.xtc_probability > 0:
        xtc = (sampling.xtc_probability, sampling.xtc_threshold, 1, seed)
        links.append(llama.llama_sampler_init_xtc(*xtc))
    return links


def _mirostat(llama: Any, tokenizer: Tokenizer, sampling: Sampling, seed: int) -> list[int]:
    tau, eta = sampling.mirostat_tau, sampling.mirostat_eta
    temperature = llama.llama_sampler_init_temp(sampling.temperature)
    if sampling.mirostat == 2:
        return [temperature, llama.llama_sampler_init_mirostat_v2(seed, tau, eta)]
    n_vocab = tokenizer.n_vocab
    return [temperature, llama.llama_sampler_init_mirostat(n_vocab, seed, tau, eta, _MIROSTAT_M)]
