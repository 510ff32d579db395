"""How an answer feels: time to the first token, and between tokens, by the path chat takes."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from localllm.errors import UsageProblem
from localllm.library.bench.record import LatencyRow, Percentiles

if TYPE_CHECKING:
    from localllm.engine.context import Context
    from localllm.engine.session import Session
    from localllm.generation import Accounting
    from localllm.placement import Opened


def latency(
    opened: Opened,
    n_prompt: int = 512,
    n_gen: int = 128,
    n_answers: int = 5,
    *,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> LatencyRow:
    """Answer `n_answers` prompts of `n_prompt` tokens with `n_gen` tokens each.

    Everything that chat does for an answer is done: the prompt computed, tokens sampled by the
    default chain, made into text, matched against a stop string that never comes; only that a
    token which would end the answer does not. Prompts are random tokens, each beginning with
    another one (after BOS), so that nothing of them is in the cache. One untimed answer warms
    up; `advance` counts answers, that one included.
    Raises UsageProblem for a context that is too short, and what generating raises.
    """
    if min(n_prompt, n_gen, n_answers) < 1:
        raise UsageProblem("latency needs a prompt, tokens to generate and answers")
    context = opened.context
    if n_prompt + n_gen > context.n_ctx_seq:
        raise UsageProblem(
            f"{n_prompt} + {n_gen} tokens do not fit the context of {context.n_ctx_seq}"
        )
    session = _endless_session(context)
    answers = []
    for i, prompt in enumerate(_prompts(context, n_prompt, n_answers + 1, seed)):
        answer = _answer(session, prompt, n_gen, seed + i)
        if i:
            answers.append(answer)
        if advance is not None:
            advance(1)
    session.reset()
    return _row(n_prompt, n_gen, answers)


@dataclass(frozen=True)
class _Answer:
    """Seconds to the first text, the gaps between tokens after it, and the engine's account."""

    first_s: float
    gaps_s: tuple[float, ...]
    accounting: Accounting


def _answer(session: Session, prompt: Sequence[int], n_gen: int, seed: int) -> _Answer:
    from localllm.generation import Sampling

    # A stop string keeps the matcher at work, as a chat template's does; this one never comes.
    sampling = Sampling(seed=seed, max_tokens=n_gen, stop=("\x00<never>\x00",))
    begun = time.perf_counter()
    stream = session.stream(prompt, sampling, started=begun)
    shown: list[tuple[float, int]] = []  # when text came, and of how many tokens
    for piece in stream:
        shown.append((time.perf_counter(), piece.token_count))
    account = stream.accounting
    assert account is not None
    if not shown:  # no token made a character
        shown = [(begun + account.first_token_s, 1)]
    gaps = [
        (at - before) / count for (before, _), (at, count) in pairwise(shown) for _ in range(count)
    ]
    return _Answer(shown[0][0] - begun, tuple(gaps), account)


def _endless_session(context: Context) -> Session:
    """A session in which no token ends an answer. Barring these tokens by their logits would
    take another way through the sampler than chat does, and a slower one."""
    from localllm.engine.session import Session
    from localllm.engine.tokenizer import Tokenizer

    class Endless(Tokenizer):
        eog_tokens = frozenset()

    session = Session(context)
    session.reset()
    session.tokenizer = Endless(context.model)
    return session


def _prompts(context: Context, n_prompt: int, count: int, seed: int) -> list[list[int]]:
    """Random ids, BOS first where the vocabulary adds it. After that every prompt begins with
    another token, as far as there are enough."""
    tokenizer = context.model.tokenizer
    draw = random.Random(seed)
    bos = tokenizer.bos if tokenizer.adds_bos else None
    usual = [t for t in range(min(tokenizer.n_vocab, 65_536)) if not tokenizer.is_control(t)]
    usual = usual or list(range(tokenizer.n_vocab))
    firsts = draw.sample(usual, min(count, len(usual)))
    prompts = []
    for i in range(count):
        tokens = [firsts[i % len(firsts)], *draw.choices(usual, k=n_prompt)]
        prompts.append(([bos, *tokens] if bos is not None else tokens)[:n_prompt])
    return prompts


def _row(n_prompt: int, n_gen: int, answers: Sequence[_Answer]) -> LatencyRow:
    accounts = [a.accounting for a in answers]
    computed = sum(a.prompt_tokens - a.cached_tokens for a in accounts)
    decode_s = sum(a.decode_s for a in accounts)
    followed = sum(a.completion_tokens - 1 for a in accounts)
    return LatencyRow(
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_answers=len(answers),
        first_token=percentiles([a.first_s for a in answers]),
        inter_token=percentiles([gap for a in answers for gap in a.gaps_s]),
        prompt_tps=computed / sum(a.prompt_s for a in accounts),
        decode_tps=followed / decode_s if decode_s > 0 else 0.0,
    )


def percentiles(values_s: Sequence[float]) -> Percentiles:
    """Percentiles by linear interpolation between the sorted values; all 0 of nothing."""
    if not values_s:
        return Percentiles(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    ordered = sorted(values_s)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    return Percentiles(
        n=len(ordered),
        mean_s=statistics.fmean(ordered),
        p50_s=at(0.50),
        p90_s=at(0.90),
        p95_s=at(0.95),
        p99_s=at(0.99),
        max_s=ordered[-1],
    )
