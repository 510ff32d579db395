"""A session whose steps verify a draft: several tokens of an answer in one computation.

Each step computes the last token and the drafted ones after it in one batch, with logits of all.
Then the target's own sampler chooses at each place in turn, by its own logits, penalties, grammar
and random numbers. While its choice is the drafted token, the next place is already computed; the
first choice that differs is the answer's token all the same, and what was computed after it is
taken back. So every token is drawn exactly as without a draft, whatever the draft is: seed for
seed the same answer (to rounding: a batch of other size may add in another order).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from localllm.engine.batching import TokenBatch
from localllm.engine.context import Context, ContextFull
from localllm.engine.draft.pace import Pace
from localllm.engine.draft.undo import Undo
from localllm.engine.session import Session
from localllm.engine.stream import TokenStream
from localllm.engine.vision.prompt import MediaPrompt
from localllm.generation import Accounting

_ENOUGH = 4  # plain steps that make a mean


class Drafter(Protocol):
    """Whatever guesses how a text goes on."""

    caught_up_s: float  # of the last `propose`, that no later one will take again

    def begin(self, prompt: Sequence[int]) -> None:
        """Another prompt will be continued."""

    def propose(self, tokens: Sequence[int], n_max: int, pace: Pace) -> list[int]:
        """Tokens that may follow `tokens`, at most `n_max`, as far as `pace` takes them."""

    def verified(self, n_drafted: int, n_accepted: int) -> None:
        """How much of the last proposal was right."""

    def abort(self) -> None: ...

    def arm(self) -> None: ...

    def reset(self) -> None: ...


@dataclass(frozen=True)
class DraftAccounting(Accounting):
    """`drafted` tokens were verified, `accepted` of them were what the target chose.

    `draft_s` is what drafting took of `decode_s`. `plain_step_s` is a mean of steps without a
    draft: of this answer where there were four, else of the latest (None: there was none).
    """

    drafted: int = 0
    accepted: int = 0
    draft_s: float = 0.0
    plain_step_s: float | None = None
    computing_s: float = 0.0  # of `decode_s`, all steps with their drafts

    @property
    def acceptance(self) -> float | None:
        """Accepted of drafted tokens, 0 to 1; None where none were drafted."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def speedup_estimate(self) -> float | None:
        """How many times faster than without a draft: what the answer's tokens would have
        taken in plain steps, such as were measured in between, over what they took. An
        estimate, since a plain step takes longer the longer the text; the truth needs a second
        run. None where no plain step was measured."""
        n = self.completion_tokens - 1
        if self.plain_step_s is None or n < 1 or self.decode_s <= 0:
            return None
        rest = max(0.0, self.decode_s - self.computing_s)  # sampling, text: as without
        return (n * self.plain_step_s + rest) / self.decode_s


@dataclass
class _Counts:
    """Of one answer."""

    drafted: int = 0
    accepted: int = 0
    draft_s: float = 0.0
    computing_s: float = 0.0
    plain_s: float = 0.0
    n_plain: int = 0


class DraftStream(TokenStream):
    """A stream whose accounting tells of the draft."""

    def _account(self) -> Accounting:
        session = self._session
        assert isinstance(session, DraftSession)
        counts = session.counts
        # The token that ends an answer is not computed, so `advance` never saw it.
        last = self.tokens[-1] if self.tokens else None
        ended = last is not None and last == session.next_drafted
        n_plain = counts.n_plain
        n_computed = len(self._prompt) + len(self.tokens) - 1
        accepted = counts.accepted + (ended and session.n_computed == n_computed)
        return DraftAccounting(
            **vars(super()._account()),
            drafted=counts.drafted,
            accepted=accepted,
            draft_s=counts.draft_s,
            plain_step_s=counts.plain_s / n_plain if n_plain >= _ENOUGH else session.pace.plain_s,
            computing_s=counts.computing_s,
        )


class DraftSession(Session):
    """Sequence 0 of the target's context, with a drafter beside it."""

    _stream_type = DraftStream

    def __init__(self, context: Context, drafter: Drafter, n_max: int, pace: Pace) -> None:
        """`n_max` bounds a draft; the batch and micro-batch do so too."""
        super().__init__(context)
        self.drafter = drafter
        self.pace = pace
        self.counts = _Counts()
        # A window's cache has room for a micro-batch beside the window: see Undo.
        most = min(context.n_batch - 1, context.n_ubatch // 2, _most_outputs(context) - 1)
        self._n_max = max(0, min(n_max, most))
        self._verify = TokenBatch(self._n_max + 1)
        self._undo = Undo(context, self._verify)
        self._draft: list[int] = []  # computed after the last token, not all of it right
        self._n_right = 0
        self._round: _Round | None = None
        self.next_drafted: int | None = None  # at the end of the last stream
        self.n_computed = 0

    def reset(self) -> None:
        super().reset()
        self.drafter.reset()
        self._forget_round()

    def abort(self) -> None:
        self.context.abort()
        self.drafter.abort()

    def arm(self) -> None:
        self.context.arm()
        self.drafter.arm()

    def process(self, prompt: Sequence[int], media: MediaPrompt | None = None) -> int:
        self.counts = _Counts()
        self._forget_round()
        self.output = -1
        self.pace.begin()
        cached = super().process(prompt, media)
        self.drafter.begin(prompt)
        return cached

    def advance(self, token: int, left: int | None = None) -> None:
        if self._n_right < len(self._draft) and token == self._draft[self._n_right]:
            self._tokens.append(token)
            self._n_right += 1
            self.output += 1
            self.counts.accepted += 1
            return
        begun = time.perf_counter()
        self._end_round()
        self._step(token, left)
        self.counts.computing_s += time.perf_counter() - begun

    def release(self) -> None:
        """The stream has ended, maybe in the middle of a draft."""
        unjudged = self._draft[self._n_right :]
        self.next_drafted = unjudged[0] if unjudged else None
        self.n_computed = len(self._tokens)
        try:
            if not self._unfinished and not self.context.closed:
                self._end_round()
        finally:
            self._forget_round()
            super().release()

    # --- a step --------------------------------------------------------------------------

    def _step(self, token: int, left: int | None) -> None:
        """Compute `token`, and a draft after it if that pays."""
        room = self.context.n_ctx_seq - len(self._tokens) - 1
        n_max = min(self._n_max, room, self._n_max if left is None else left - 1)
        draft: list[int] = []
        drafting = _Timer()
        if n_max > 0 and self.pace.drafts():
            draft = self.drafter.propose([*self._tokens, token], n_max, self.pace)
            drafting.stop()
            self.counts.draft_s += drafting.seconds
            if not draft:
                self.pace.in_vain(drafting.seconds - self.drafter.caught_up_s)
        computing = _Timer()
        if draft and not self._computed(token, draft):
            draft = []
        if not draft:
            super().advance(token)
            self.output = -1
            self.context.synchronize()  # a GPU only begins with `decode`
            computing.stop()
            self.pace.stepped(computing.seconds)
            self.counts.plain_s += computing.seconds
            self.counts.n_plain += 1
            return
        computing.stop()
        self.counts.drafted += len(draft)
        draft_s = drafting.seconds - self.drafter.caught_up_s
        self._round = _Round(draft_s, computing.seconds)

    def _computed(self, token: int, draft: list[int]) -> bool:
        """Compute both in one batch; False if there is no room for the draft."""
        position, batch = len(self._tokens), self._verify
        self._unfinished = True
        self._undo.mark(position)
        batch.clear()
        for i, one in enumerate((token, *draft)):
            batch.add(one, position + i, 0, output=True)
        try:
            self.context.interruptible(lambda: self.context.decode(batch.native))
        except ContextFull:
            self._unfinished = False
            return False
        self.context.synchronize()
        self._tokens.append(token)
        self._unfinished = False
        self._draft, self._n_right, self.output = draft, 0, 0
        return True

    def _end_round(self) -> None:
        """Take back what was drafted wrong, and tell what the round was worth."""
        draft, n_right = self._draft, self._n_right
        if not draft:
            return
        undoing = _Timer()
        if n_right < len(draft):
            self._unfinished = True
            self._undo.back(self._tokens, len(self._tokens))
            self._unfinished = False
        undoing.stop()
        self.drafter.verified(len(draft), n_right)
        if self._round is not None:
            step_s = self._round.step_s + undoing.seconds
            self.pace.verified(len(draft), n_right, self._round.draft_s, step_s)
        self._forget_round()

    def _forget_round(self) -> None:
        self._draft, self._n_right, self._round = [], 0, None


@dataclass(frozen=True)
class _Round:
    """Seconds of a step with a draft, before anything is taken back."""

    draft_s: float
    step_s: float


class _Timer:
    """From its making to `stop`."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self.seconds = 0.0

    def stop(self) -> None:
        self.seconds = time.perf_counter() - self._begun


def _most_outputs(context: Context) -> int:
    """Tokens of a batch whose logits may be asked for."""
    return context.options.n_outputs_max or context.n_batch
