"""Two members answer the same question, and whose answer is better is said before their names are.

What is kept is a decision: the two in the order in which they were shown, what both said, what
they cost, and the vote. `retrain` learns from it, and so does `finetune --from-votes`.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from localllm.errors import LocalLLMError, UsageProblem
from localllm.library.answering import VERDICTS, Revealed
from localllm.registry.decisions import BOTH_BAD, TIE, Decisions
from localllm.route.answering.members import Members
from localllm.route.answering.routed_stream import RoutedStream
from localllm.route.deciding.guarding import PrivateData
from localllm.route.pool.spec import RouterSpec

if TYPE_CHECKING:
    from localllm.endpoints import Wanted
    from localllm.route.answering.routed import RoutedGenerator

SOURCE = "owner side by side"  # beside what else the owner says of an answer


class Comparison:
    """A library.answering.SideBySide. The order is drawn anew each time, and not from a seed."""

    def __init__(
        self, generator: RoutedGenerator, doors: Members, sides: dict[str, RoutedGenerator],
        wanted: Wanted, decisions: Decisions | None,
    ) -> None:  # fmt: skip
        """`sides` are the two members alone. Nothing is kept without `decisions`. Raises
        PrivateData where one of them may not see the question, and what loading raises."""
        self._generator, self._doors, self._decisions = generator, doors, decisions
        found = {name: side.ask(wanted) for name, side in sides.items()}
        for name, stream in found.items():
            if stream.routing.member != name:
                raise PrivateData(f"{name} may not see this question: there is nothing to compare")
        for name in sides:  # in their own order: which of them loads tells nothing later
            doors.door(name).release()
        self._names = list(found)
        random.SystemRandom().shuffle(self._names)
        self._streams = [found[name] for name in self._names]
        self._messages = wanted.messages or ()
        self._prompt = next(m.content for m in reversed(wanted.messages or ()) if m.role == "user")
        self._number: int | None = None
        self._ended = False
        doors.quiet(True)

    @property
    def streams(self) -> tuple[RoutedStream, RoutedStream]:
        return self._streams[0], self._streams[1]

    def end(self) -> None:
        """From here on it is known that both were asked, and what it cost."""
        self._doors.quiet(False)
        if self._ended or self._decisions is None:
            return
        self._ended = True
        opened = self._generator.opened
        costs = [one.routing.cost for one in self._streams if one.accounting is not None]
        guard = self._streams[0].routing.guard
        data = {"compared": self._names, "guard": dict(guard)}
        try:
            self._number = self._decisions.record(
                opened.name, opened.version.number, member="", chosen="",
                cost=sum(cost for cost in costs if cost is not None) or None,
                prompt=self._generator.held(self._prompt, guard), data=data,
            )  # fmt: skip
        except LocalLLMError as error:
            self._generator.tell(f"this comparison is not kept: {error.message}")

    def vote(self, verdict: str, answers: tuple[str, str]) -> Revealed:
        if verdict not in VERDICTS:
            raise UsageProblem(f"a vote is one of {', '.join(VERDICTS)}")
        a, b = self._names
        preferred = {"a": a, "b": b}.get(verdict)
        if self._decisions is not None and self._number is not None:
            said = dict(zip(self._names, answers, strict=True))
            kept = self._generator.held(self._prompt, self._streams[0].routing.guard)
            data = {"answers": said} if kept == self._prompt else {}
            self._decisions.settle(self._number, member=preferred or "", data=data)
            named = preferred or {"tie": TIE, "both-bad": BOTH_BAD}[verdict]
            self._decisions.vote(self._number, named, SOURCE)
        if preferred is not None:  # what is said next of an answer is said of this one
            stream = self._streams[self._names.index(preferred)]
            self._generator.last = replace(stream.routing, decision=self._number)
            self._generator.sticky.keep(self._messages, preferred)
        return Revealed(a, b, preferred)


def two_of(spec: RouterSpec) -> tuple[str, str]:
    """The last step's two members, or else the first and the last that answer by themselves.
    Raises UsageProblem where there are no such two."""
    answering = [one.name for one in spec.members if one.kind != "human"]
    if spec.pair is not None and set(spec.pair) <= set(answering):
        return spec.pair
    if len(answering) < 2:
        raise UsageProblem(
            f"two members are compared, and only {', '.join(answering) or 'a person'} answers here",
            "localllm route create NAME --member a=MODEL --member b=MODEL --strategy random",
        )  # fmt: skip
    return answering[0], answering[-1]
