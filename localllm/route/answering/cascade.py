"""The weak member answers first, and its own answer decides whether the strong one is asked.

Nothing of it is shown until that is settled. It is settled as early as what may still come is not
likely to change it: with bounds on every signal, the probability that the answer is good lies
between two values, and once both are on one side of the threshold the samples that still run are
stopped (for the strong member) or shown as they come (for the weak one).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from localllm.engine.scheduler import Event, Request, TokenLogprobs
from localllm.engine.template import encode_prompt
from localllm.generation import Accounting, Message, Sampling
from localllm.route.answering.confidence import (
    P_TRUE_QUESTION,
    agreement,
    good_probability,
    p_true,
    token_confidence,
)
from localllm.route.answering.local import LocalMember
from localllm.route.answering.voice import Voice
from localllm.route.pool.steps import CascadeStep
from localllm.toolcalls import Part

if TYPE_CHECKING:
    from localllm.endpoints import Wanted
    from localllm.engine.scheduler import Answer

_TOP = 20  # likeliest tokens in which yes and no are looked for
# While tokens come, the mean may still move: so much either way of what is known so far
_DRIFT = 0.5


@dataclass
class Judged:
    """What was found out about the weak answer. `escalated` None: not settled yet."""

    signals: dict[str, float] = field(default_factory=dict)
    probability: float | None = None  # that the strong member is needed
    escalated: bool | None = None
    early: bool = False  # settled before the answer's end
    tokens: int = 0  # that the weak member computed, all samples


class Escalate(Exception):
    """The weak answer is not sure enough: the strong member is to be asked."""


class CascadeStream:
    """A MemberStream of the weak member. `next_part` raises Escalate where its answer is given
    up; `judged` says why, and is complete once a part has come."""

    def __init__(
        self, member: LocalMember, wanted: Wanted, step: CascadeStep, threshold: float | None
    ) -> None:
        """Without a `threshold` the answer is never given up and all its signals are measured."""
        self.accounting: Accounting | None = None
        self.model: str | None = member.name
        self.judged = Judged()
        self._member, self._wanted = member, wanted
        self._step, self._threshold = step, threshold
        prepared = member.prepare(wanted)
        most = member.lent.generator.scheduler.context.n_seq_max
        n = min(step.samples, most) if "agreement" in step.signals else 1
        # where too few run at once nothing can agree
        self._signals = [s for s in step.signals if s != "agreement" or n > 1] or ["logprobs"]
        self._n = n
        request = replace(prepared.request, n=n, logprobs=0)
        self._answer: Answer = member.lent.generator.submit(request)
        self._events: Iterator[Event] = self._answer.events()
        self._voice = Voice(prepared.splitter, prepared.parser)
        self._texts = [""] * n
        self._logprobs: list[list[TokenLogprobs]] = [[] for _ in range(n)]
        self._done = [False] * n
        self._account: Accounting | None = None  # of sample 0
        self._waiting: list[Part] = []
        self._cancelled = False
        self._ended = False

    def next_part(self) -> Part | None:
        while not self._ended and (self.judged.escalated is None or not self._waiting):
            event = next(self._events, None)
            if event is None:
                self._finish()
            else:
                self._take(event)
            if self.judged.escalated:
                self._answer.cancel()
                for _ in self._events:  # until what runs has stopped
                    continue
                raise Escalate
        return self._waiting.pop(0) if self._waiting else None

    def cancel(self) -> None:
        self._cancelled = True
        self._answer.cancel()

    def _take(self, event: Event) -> None:
        i = event.sample
        self._texts[i] += event.text
        if event.token is not None:
            self.judged.tokens += 1
        if event.logprobs is not None:
            self._logprobs[i].append(event.logprobs)
        if event.last:
            self._done[i] = True
        if i == 0:
            if event.text:
                self._waiting += self._voice.feed(event.text)
            if event.accounting is not None:
                self._account = event.accounting
        n_seen = len(self._logprobs[i])
        looks = event.last or n_seen % self._step.look_tokens == 0
        open_yet = self.judged.escalated is None and not self._cancelled
        if looks and open_yet and self._threshold is not None:
            self._look(self._threshold)

    def _look(self, threshold: float) -> None:
        """Settle it if what may still come is not likely to change it."""
        low, high = self._bounds()
        need_low, need_high = 1 - high, 1 - low  # of the strong member
        if need_low >= threshold:
            self._settle(need_low, True)
        elif need_high < threshold:
            self._settle(need_high, False)

    def _settle(self, probability: float, escalated: bool) -> None:
        self.judged.probability, self.judged.escalated = probability, escalated
        self.judged.early = not all(self._done)

    def _bounds(self) -> tuple[float, float]:
        """(lowest, highest) probability that the answer is good, by what is known so far."""
        weights = self._step.combiner
        lows: dict[str, float] = {}
        highs: dict[str, float] = {}
        self.judged.signals = self._known()
        for name in self._signals:
            lows[name], highs[name] = self._signal_bounds(name)
            if getattr(weights, name) < 0:
                lows[name], highs[name] = highs[name], lows[name]
        return good_probability(lows, weights), good_probability(highs, weights)

    def _known(self) -> dict[str, float]:
        """The signals as they stand; those of which nothing is known yet are not there."""
        found: dict[str, float] = {}
        if "logprobs" in self._signals and self._logprobs[0]:
            found["logprobs"] = token_confidence(self._logprobs[0])
        ended = [self._texts[i] for i in range(1, self._n) if self._done[i]]
        if "agreement" in self._signals and self._done[0] and ended:
            found["agreement"] = agreement(self._texts[0], ended)
        return found

    def _signal_bounds(self, name: str) -> tuple[float, float]:
        if name == "logprobs":
            known = self._logprobs[0]
            value = token_confidence(known)
            if self._done[0]:
                return value, value
            room = _DRIFT * self._step.look_tokens / max(len(known), 1)
            return max(0.0, value - room * value), min(1.0, value + room * (1 - value))
        if name == "agreement":
            return self._agreement_bounds()
        return 0.0, 1.0  # p_true is asked when the answer is there

    def _agreement_bounds(self) -> tuple[float, float]:
        others = range(1, self._n)
        if not self._done[0]:
            return 0.0, 1.0
        ended = [self._texts[i] for i in others if self._done[i]]
        n_open = len(others) - len(ended)
        total = agreement(self._texts[0], ended) * len(ended)
        return total / len(others), (total + n_open) / len(others)

    def _finish(self) -> None:
        """All samples have ended."""
        self._ended = True
        self._waiting += self._voice.finish()
        self.accounting = self._account or self._answer.accounting
        if self.judged.escalated is not None or self._cancelled:
            return
        self._done = [True] * self._n
        low, _ = self._bounds()
        if "p_true" in self._signals:
            signals = dict(self.judged.signals)
            signals["p_true"] = self._asked_itself()
            self.judged.signals = signals
            low = good_probability(signals, self._step.combiner)
        self._settle(1 - low, self._threshold is not None and 1 - low >= self._threshold)

    def _asked_itself(self) -> float:
        """P(True). A model that cannot be asked says nothing either way."""
        question = next(
            (m.content for m in reversed(self._wanted.messages or ()) if m.role == "user"), ""
        )
        text = P_TRUE_QUESTION.format(question=question, answer=self._texts[0])
        generator = self._member.lent.generator
        rendered = self._member.lent.template.render([Message("user", text)])
        tokens = encode_prompt(generator.scheduler.tokenizer, rendered.text)
        if len(tokens) >= self._member.lent.n_ctx:
            return 0.5
        request = Request(
            tokens, Sampling(temperature=0.0, max_tokens=1), logprobs=_TOP,
            adapters=self._member.lent.adapters,
        )  # fmt: skip
        events = list(generator.submit(request).events())
        first = next((one.logprobs for one in events if one.logprobs is not None), None)
        if first is None:
            return 0.5
        tokenizer = generator.scheduler.tokenizer
        found = [first.chosen, *first.top]
        return p_true(first, {one.token: tokenizer.decode([one.token]) for one in found})
