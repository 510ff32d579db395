"""A prompt of text and images: as tokens that can be compared, and as what has to be computed.

In the list of tokens each place (position) of an image is a number below zero, made of the
picture and the place, so that two prompts with the same beginning have equal lists just as
for text: what is computed of an image is used again in the next turn, another picture is not
taken for it. They are no tokens: samplers and drafts must not see them.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm.engine.batching import TokenBatch
from localllm.engine.context import Context
from localllm.errors import UsageProblem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from localllm.engine.vision.vision import Vision

# (the place after an image, the cells it takes beyond its places), in order. Empty where each place
# takes one cell: for text, and for images without M-RoPE.
Wide = tuple[tuple[int, int], ...]

_CODES = (1 << 30) - 2  # int32, as the scheduler compares them


def place_codes(key: bytes, n: int) -> list[int]:
    """The numbers that stand for an image's `n` places. Even ones begin an image."""
    drawn = hashlib.shake_256(key).digest(4 * n)
    numbers = (int.from_bytes(drawn[i : i + 4], "little") % _CODES for i in range(0, 4 * n, 4))
    return [-(2 * number + 2 + (i > 0)) for i, number in enumerate(numbers)]


def whole_images(tokens: Sequence[int], n: int) -> int:
    """At most `n`, so that the first so many `tokens` hold no image in part."""
    while 0 < n < len(tokens) and tokens[n] < 0 and tokens[n] % 2:
        n -= 1
    return n


def cells_of(n_tokens: int, wide: Wide) -> int:
    """Cells that the first `n_tokens` take. They must hold no image in part."""
    return n_tokens + sum(more for end, more in wide if end <= n_tokens)


@dataclass(frozen=True)
class Run:
    """A stretch of text, or one image chunk, of a prompt.

    It starts at position `start` and takes `n_pos` of them; in memory it takes `n_cells`, which
    is more for an image where positions are two-dimensional (M-RoPE).
    """

    start: int
    n_pos: int
    n_cells: int
    chunk: int | None = None  # mtmd_input_chunk of an image
    key: bytes = b""


class MediaPrompt:
    """What a session or a scheduler computes in place of plain tokens. `Vision.read` makes it."""

    def __init__(self, vision: Vision, owner: object, tokens: list[int], runs: list[Run]) -> None:
        """`owner` keeps the chunks that `runs` point to."""
        self.vision = vision
        self._owner = owner
        self._runs = runs
        self._images = {run.start: run for run in runs if run.chunk is not None}
        self._starts = sorted(self._images)
        self.tokens = tokens
        self.wide: Wide = tuple(
            (run.start + run.n_pos, run.n_cells - run.n_pos)
            for run in runs
            if run.n_cells != run.n_pos
        )

    @property
    def n_images(self) -> int:
        """Image chunks; some models cut one picture into several."""
        return len(self._images)

    def image_at(self, start: int) -> Run | None:
        """The image that begins at this place."""
        return self._images.get(start)

    def next_image(self, after: int) -> int | None:
        """Where the first image behind this place begins."""
        i = bisect_right(self._starts, after)
        return self._starts[i] if i < len(self._starts) else None

    def encode(self, run: Run) -> NDArray[np.float32]:
        """See Vision.encode."""
        return self.vision.encode(run)

    @property
    def n_cells(self) -> int:
        """Places in the context's memory that all of it takes."""
        return sum(run.n_cells for run in self._runs)

    def cells(self, n_tokens: int) -> int:
        """Places that the first `n_tokens` take."""
        taken = 0
        for run in self._runs:
            part = min(max(0, n_tokens - run.start), run.n_pos)
            taken += run.n_cells if part == run.n_pos else part
        return taken

    def check(self, context: Context) -> None:
        """Raise UsageProblem for what `context` cannot compute."""
        for run in self._runs:
            at_once = run.chunk is not None and self.vision.whole_in_one(run.chunk)
            room = min(context.n_ubatch, context.n_batch)
            if at_once and run.n_cells > room:  # llama.cpp asserts
                raise UsageProblem(
                    f"an image is {run.n_cells} tokens for this model, which must be computed at "
                    f"once, and the micro-batch holds {room}",
                    f"a larger one: n_ubatch {run.n_cells}",
                )
        if self.n_cells > context.n_ctx_seq:
            raise UsageProblem(
                f"the prompt is {self.n_cells} tokens with its images, the context holds "
                f"{context.n_ctx_seq}",
                f"use a larger context: --ctx {self.n_cells + 256}",
            )
        if self._runs and self._runs[-1].chunk is not None:
            raise UsageProblem("the prompt ends with an image: a text must follow it")

    def fill(
        self, context: Context, start: int, *, sequence: int = 0, end: int | None = None
    ) -> None:
        """Compute the tokens from `start` to `end` (None: all) into `sequence`, with logits of
        the last of all. Neither may lie inside an image.

        Ctrl-C and `Context.abort` stop it within a graph node of the text model; an image's own
        encoder is not interrupted. Raises as `Context.decode` does.
        """
        end = len(self.tokens) if end is None else end
        for run in self._runs:
            first, last = max(start, run.start), min(end, run.start + run.n_pos)
            if first >= last:
                continue
            if run.chunk is not None:
                self.vision.evaluate(context, run, sequence)
            else:
                self._fill_text(context, first, last, sequence)

    def _fill_text(self, context: Context, start: int, end: int, sequence: int) -> None:
        # Positions are given: after an image of M-RoPE the next one is not the last plus one.
        with TokenBatch(min(context.n_batch, end - start)) as batch:
            for at in range(start, end, batch.capacity):
                part = self.tokens[at : min(end, at + batch.capacity)]
                batch.clear()
                output = at + len(part) == len(self.tokens)
                batch.extend(part, at, sequence, output=output)
                context.interruptible(lambda: context.decode(batch.native))
