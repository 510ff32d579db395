"""The held-out examples and sample answers, from llama.cpp, with and without what was learned.

Training computes with numbers of its own; what counts is what the user will run. So the same
examples are scored here by the engine on the very GGUF and adapter file, token by token, at the
same positions as in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.closing import Closing
from localllm.placement import Opened, PlanOptions, open_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from localllm.engine.quality.chunks import Chunk
    from localllm.finetune.data import Example

MOST_JUDGED = 200  # examples: llama.cpp scores some hundred tokens a second on a laptop
GAIN = 0.05  # nats: below, nothing was learned that could be lost
KEPT = 0.5  # the share of the gain that has to be there
_N_BATCH = 512


@dataclass(frozen=True)
class Judged:
    """Of `n_tokens` predicted tokens: the mean negative log-likelihood in nats, and each
    example's own."""

    loss: float
    n_tokens: int
    of_examples: tuple[float, ...]

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


@dataclass(frozen=True)
class Sample:
    """A prompt and what the model went on with, greedily."""

    prompt: str
    answer: str


class Engine(Closing):
    """A GGUF loaded to score and to answer, with or without an adapter."""

    def __init__(self, path: Path, n_ctx: int, *, threads: int | None) -> None:
        """`n_ctx` is the longest example with its answer, in tokens.

        It is tried whether or not it seems to fit: torch holds memory that it has no more use
        for, and hours of training are not to end in a refusal. Raises what `open_model` raises.
        """
        from localllm.engine.options import ContextOptions

        options = PlanOptions(
            n_ctx=max(256, n_ctx), n_parallel=1, n_batch=_N_BATCH, n_ubatch=_N_BATCH
        )
        context = ContextOptions(n_threads=threads or 0)
        self.opened: Opened = open_model(path, options, force=True, context=context)

    def close(self) -> None:
        self.opened.close()

    def use(self, adapter: Path | None, scale: float = 1.0) -> None:
        """Attach `adapter` alone; None: the model as it is. Raises DamagedFile, EngineError."""
        from localllm.engine.adapter import Attached, LoraAdapter, attach

        found = [] if adapter is None else [LoraAdapter(self.opened.model, adapter)]
        attach(self.opened.context, [Attached(one, scale) for one in found])

    def judge(
        self, examples: Sequence[Example], advance: Callable[[int], None] = lambda n: None
    ) -> Judged:
        """Score `examples`, whose predicted tokens all count the same.

        `advance` gets the tokens that were computed.
        """
        from localllm.engine.quality.quality import Judge

        pairs = [_chunk(number, one) for number, one in enumerate(examples, 1)]
        losses: list[NDArray[np.float64]] = []
        with Judge(self.opened.context) as judge:
            scored = judge.scores([chunk for chunk, _ in pairs])
            for (chunk, counts), one in zip(pairs, scored, strict=True):
                losses.append(one.nll[counts])
                advance(len(chunk.tokens))
        n_tokens = sum(len(one) for one in losses)
        total = sum(float(one.sum()) for one in losses)
        of_examples = tuple(float(one.mean()) for one in losses)
        return Judged(total / max(1, n_tokens), n_tokens, of_examples)

    def answers(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> Iterator[Sample]:
        """Go on after each prompt, always with the likeliest token."""
        from localllm.engine.session import Session
        from localllm.generation import Sampling

        session = Session(self.opened.context)
        tokenizer = session.tokenizer
        for prompt in prompts:
            session.reset()
            stream = session.stream(prompt, Sampling(temperature=0.0, max_tokens=max_tokens))
            text = "".join(piece.text for piece in stream)
            yield Sample(tokenizer.decode(prompt), text)


def prompt_of(example: Example) -> list[int]:
    """What stands before the first token that counts."""
    import numpy as np

    places = np.flatnonzero(example.mask)
    end = int(places[0]) if len(places) else len(example.ids)
    return [int(token) for token in example.ids[:end]]


def _chunk(number: int, example: Example) -> tuple[Chunk, NDArray[np.bool_]]:
    """The example as the engine scores it, and which of the scored positions count."""
    import numpy as np

    from localllm.engine.quality.chunks import Chunk

    places = np.flatnonzero(example.mask)
    places = places[places > 0]
    first, last = int(places[0]) - 1, int(places[-1])
    ids = [int(token) for token in example.ids[: last + 1]]
    counts = np.asarray(example.mask[first + 1 : last + 1], dtype=bool)
    return Chunk(number, tuple(ids[:last]), first, tuple(ids[first + 1 :])), counts
