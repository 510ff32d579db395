"""A draft by a smaller model: its likeliest tokens, as far as it is sure enough."""

from __future__ import annotations

import time
from collections.abc import Sequence

from localllm.engine.batching import TokenBatch
from localllm.engine.context import Context, ContextFull
from localllm.engine.draft.pace import Pace
from localllm.engine.draft.undo import Undo

# Tokens this much less likely than the best (in nats) do not count for its probability: in a
# vocabulary of 262k they could make up for 2 % at the very most.
_MARGIN = 16.0
_MOST_CAUGHT_UP = 2  # tokens that a step leaves to be fed: the last one drafted, and the next


class ModelDrafter:
    """Keeps sequence 0 of the draft's context in step with the target's tokens.

    What the draft has in memory of a conversation is used again in the next turn, as the target
    does. Where it cannot follow (its context is full, a token or an image that it does not
    know), it proposes nothing.
    """

    def __init__(self, context: Context, n_vocab: int) -> None:
        """`n_vocab` is the target's: tokens beyond it are never proposed.

        Raises EngineError for a model that does not generate.
        """
        context.require_generation()
        self.context = context
        self._n_common = min(n_vocab, context.model.tokenizer.n_vocab)
        self._eog = context.model.tokenizer.eog_tokens
        self._batch = TokenBatch(min(context.n_batch, context.n_ctx_seq))
        self._undo = Undo(context, self._batch)
        self._held: list[int] = []  # in memory, own proposals included
        self._agreed = 0  # of those, surely the target's too
        self._unfinished = False
        self._follows = True
        self.caught_up_s = 0.0  # that the last `propose` spent on what it had missed

    def begin(self, prompt: Sequence[int]) -> None:
        """Another prompt: compute what is not in memory of it.

        Raises Interrupted when `abort` came in between, EngineError on failure.
        """
        self._settle()
        self._follows = len(prompt) < self.context.n_ctx_seq and all(
            0 <= token < self._n_common for token in prompt
        )
        if not self._follows:
            return
        pairs = enumerate(zip(self._held, prompt, strict=False))
        shortest = min(len(self._held), len(prompt))
        common = next((i for i, (one, other) in pairs if one != other), shortest)
        self._agreed = self._keep(common)
        try:
            self._feed_all(prompt, logits=False)
        except ContextFull:
            self._follows = False

    def propose(self, tokens: Sequence[int], n_max: int, pace: Pace) -> list[int]:
        """Tokens that may follow `tokens`, at most `n_max`. `tokens` only grow in an answer.

        Raises Interrupted when `abort` came in between, EngineError on failure.
        """
        self.caught_up_s = 0.0
        room = self.context.n_ctx_seq - len(tokens)  # after all of them are held
        if room < 0 or not self._follows:
            return []
        if not all(0 <= token < self._n_common for token in tokens[self._agreed :]):
            self._follows = False
            return []
        try:
            self._catch_up(tokens)
            return self._sure(min(n_max, room + 1), pace)
        except ContextFull:
            self._follows = False
            return []

    def verified(self, n_drafted: int, n_accepted: int) -> None:
        """Nothing to learn: the next `propose` sees what became of it."""

    # --- the draft's memory --------------------------------------------------------------

    def _catch_up(self, tokens: Sequence[int]) -> None:
        """Hold `tokens`, with logits of the last one."""
        self._settle()
        held, right = self._held, self._agreed
        while right < min(len(held), len(tokens) - 1) and held[right] == tokens[right]:
            right += 1
        right = self._keep(right)
        begun = time.perf_counter()
        missing = len(tokens) - right
        self._feed_all(tokens, logits=True)
        self._undo.mark(len(tokens))
        if missing > _MOST_CAUGHT_UP:
            self.caught_up_s = time.perf_counter() - begun

    def _feed_all(self, tokens: Sequence[int], *, logits: bool) -> None:
        """Compute what `tokens` have beyond those held."""
        room = self._batch.capacity
        for start in range(len(self._held), len(tokens), room):
            last = start + room >= len(tokens)
            self._feed(tokens[start : start + room], output=logits and last)
        self._agreed = len(tokens)

    def _keep(self, n_tokens: int) -> int:
        """Forget what is held beyond `n_tokens`; the number kept."""
        held, marked = self._held, self._undo.marked
        if n_tokens < len(held):
            self._unfinished = True
            if marked is not None and marked <= n_tokens:
                self._undo.back(held, n_tokens)
            else:
                n_tokens = self.context.truncate(n_tokens)
                self._undo.marked = None
            del held[n_tokens:]
            self._unfinished = False
        return n_tokens

    def _sure(self, n_max: int, pace: Pace) -> list[int]:
        found: list[int] = []
        while True:
            token, p = self._likeliest()
            if token >= self._n_common or not pace.takes(p):
                return found
            found.append(token)
            if len(found) >= n_max or token in self._eog:
                return found
            self._feed(found[-1:], output=True)

    def _feed(self, tokens: Sequence[int], *, output: bool) -> None:
        self._unfinished = True
        self._batch.clear()
        self._batch.extend(tokens, len(self._held), 0, output=output)
        self.context.interruptible(lambda: self.context.decode(self._batch.native))
        self._held.extend(tokens)
        self._unfinished = False

    def _likeliest(self) -> tuple[int, float]:
        """The best token and its probability."""
        import numpy as np

        row = self.context.logits_view()
        token = int(row.argmax())
        top = row[token]
        near = row[row > top - _MARGIN]
        return token, 1.0 / float(np.exp(near - top).sum())

    def _settle(self) -> None:
        """Make `_held` what the memory holds, after an interrupt at any place."""
        if not self._unfinished:
            return
        if self.context.sequences.kind == "state":
            self.context.clear()
        length = self.context.truncate(min(self.context.length(), len(self._held)))
        del self._held[length:]
        self._agreed = min(self._agreed, length)
        self._undo.marked = None
        self._unfinished = False

    # --- ending --------------------------------------------------------------------------

    def abort(self) -> None:
        self.context.abort()

    def arm(self) -> None:
        self.context.arm()

    def reset(self) -> None:
        """Forget everything."""
        self.context.clear()
        self._held.clear()
        self._agreed, self._unfinished, self._undo.marked = 0, False, None
