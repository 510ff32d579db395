"""The end of a run: written, judged by the engine that will run it, registered; or not there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from localllm.errors import GateFailed
from localllm.finetune.outcome.judge import Engine, Sample, prompt_of
from localllm.finetune.scratch.baseline import (
    GRAM_TOKENS,
    XZ_BYTES,
    Baseline,
    Counted,
    bits_per_byte,
    compressed,
    grams,
)
from localllm.finetune.scratch.encode import Encoding, counted
from localllm.finetune.scratch.result import Judged
from localllm.generation import Message

if TYPE_CHECKING:
    from localllm.engine.tokenizer import Tokenizer
    from localllm.finetune.data import Dialect, Example
    from localllm.ui import Progress

JUDGED_TOKENS = 32_768  # of held-out text that llama.cpp scores
# nats a token between torch in float32 and llama.cpp on the file: rounding of weights and products
TOLERANCE = {"F32": 0.01, "F16": 0.01, "BF16": 0.03}
_PROMPT = 24  # tokens of a held-out text that it goes on with
_TEMPERATURE = 0.7


def judged_places(held: Encoding, seed: int) -> list[int]:
    """Held-out chunks that are judged, drawn by `seed`, in order."""
    order = np.random.default_rng([seed, 1]).permutation(len(held.examples))
    ends = np.cumsum(held.examples.lengths[order])
    n = max(1, int(np.searchsorted(ends, JUDGED_TOKENS, side="right")))
    return sorted(int(k) for k in order[:n])


def score(
    path: Path, examples: Sequence[Example], n_ctx: int, threads: int, progress: Progress
) -> float:
    """The mean loss of `examples` in nats a token by llama.cpp. Raises what the engine raises."""
    total = sum(len(one) for one in examples)
    with (
        progress.steps("judged by llama.cpp", total) as advance,
        Engine(path, n_ctx, threads=threads) as engine,
    ):
        return engine.judge(examples, advance).loss


def check_same(by_llama: float, by_torch: float, type: str) -> None:
    """Raise GateFailed where the file is not what was trained."""
    apart = abs(by_llama - by_torch)
    if not math.isfinite(by_llama) or apart > TOLERANCE[type] * max(1.0, by_torch / 4):
        raise GateFailed(
            f"on the held-out text training measured a loss of {by_torch:.4f}, llama.cpp with the "
            f"file {by_llama:.4f}: the file was thrown away",
            "the state of the run is kept; try --type F32 --resume, and report this",
        )


def weigh(
    loss: float, by_torch: float, examples: Sequence[Example], train: Encoding, learn: str,
    tokenizer: Tokenizer, progress: Progress,
) -> Judged:  # fmt: skip
    """The loss as bits per byte, beside what others make of the same text."""
    n_tokens = sum(one.n_targets for one in examples)
    held = b"".join(_text(one, tokenizer) for one in examples)
    with progress.steps("baselines", None):
        baselines = _baselines(examples, held, train, learn, tokenizer)
    return Judged(
        loss=loss,
        loss_torch=by_torch,
        n_tokens=n_tokens,
        n_bytes=len(held),
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=bits_per_byte(loss * n_tokens, len(held)),
        baselines=baselines,
    )


def _text(example: Example, tokenizer: Tokenizer) -> bytes:
    """The bytes of the tokens that count; control tokens have none."""
    return b"".join(map(tokenizer.piece, example.ids[example.mask].tolist()))


def _baselines(
    examples: Sequence[Example], held: bytes, train: Encoding, learn: str, tokenizer: Tokenizer
) -> tuple[Baseline, ...]:
    if not held:
        return ()
    before, ids = [], []
    n_bytes = n_tokens = 0
    for one in (counted(one, learn) for one in train.examples):
        if n_bytes < XZ_BYTES:
            before.append(_text(one, tokenizer))
            n_bytes += len(before[-1])
        ids.append(one.ids)
        n_tokens += len(one.ids)
        if n_tokens > GRAM_TOKENS:
            break
    known = Counted(grams(ids), tokenizer.n_vocab)
    asked = grams([one.ids for one in examples])
    counts = np.concatenate([one.mask[1:] for one in examples])
    by_counting = (
        ("tokens by how often they come", known.unigram(asked)),
        ("three tokens in a row (Kneser-Ney)", known.trigram(asked)),
    )
    return (
        *compressed(b"".join(before), held),
        *(Baseline(name, bits_per_byte(float(nll[counts].sum()), len(held)))
          for name, nll in by_counting),
    )  # fmt: skip


def prompts(
    held: Encoding, own: Sequence[str], wanted: int, dialect: Dialect, is_chat: bool
) -> list[list[int]]:
    """What the model is to go on with: the user's own words (of a model that talks, as a
    question), else the beginnings of held-out texts, or what stands before an answer."""
    if own and is_chat:
        return [dialect.ask([Message("user", text)]).ids for text in own]
    if own:
        return [dialect.tokenizer.encode(text) for text in own]
    found: list[list[int]] = []
    units = held.examples.groups
    for i in np.unique(units, return_index=True)[1]:
        one = held.examples[int(i)]
        ids = prompt_of(one) if is_chat else one.ids[:_PROMPT].tolist()
        if 1 < len(ids) < len(one.ids) and ids not in found:
            found.append(ids)
    every = max(1, len(found) // max(1, wanted))
    return found[::every][:wanted]


def samples(
    path: Path, asked: Sequence[Sequence[int]], max_tokens: int, seed: int, threads: int
) -> Iterator[Sample]:
    """What llama.cpp makes of each prompt with the file: drawn, since a small model that always
    takes the likeliest token says the same again and again."""
    from localllm.engine.session import Session
    from localllm.generation import Sampling

    longest = max(map(len, asked), default=0)
    with Engine(path, longest + max_tokens + 8, threads=threads) as engine:
        session = Session(engine.opened.context)
        for prompt in asked:
            session.reset()
            drawn = Sampling(temperature=_TEMPERATURE, max_tokens=max_tokens, seed=seed)
            text = "".join(piece.text for piece in session.stream(prompt, drawn))
            yield Sample(session.tokenizer.decode(prompt), text)
