"""One answer through a router while it comes: asked, restored, handed on, accounted for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from localllm.errors import LocalLLMError
from localllm.generation import Accounting, Piece
from localllm.privacy import Action, Masker
from localllm.route.answering.cascade import CascadeStream, Escalate
from localllm.route.answering.members import MemberDoor
from localllm.route.answering.patience import Patience
from localllm.route.answering.paying import as_routed, doubts, paid
from localllm.route.answering.planning import Plan
from localllm.route.answering.restoring import RestoredParts
from localllm.route.answering.routing import Failed, Routing, another_model
from localllm.route.answering.stream import (
    MemberStream,
    OtherModel,
    PartIterator,
    SaidNothing,
    TooSlow,
    hands_on,
)
from localllm.route.deciding.guarding import masked
from localllm.route.pool.member import cost_of
from localllm.route.pool.standing import Standing
from localllm.toolcalls import CallArguments, CallStart, Part, TextPart, ToolCall

if TYPE_CHECKING:
    from localllm.route.answering.routed import RoutedGenerator


class RoutedStream:
    """A library.answering.FarStream. `routing` says who answers; it is settled once the first part
    has come, and complete at the end."""

    def __init__(self, generator: RoutedGenerator, plan: Plan) -> None:
        self.accounting: Accounting | None = None
        self.thinking = ""
        self.calls: tuple[ToolCall, ...] = ()
        self.model: str | None = None
        self._generator, self._plan = generator, plan
        self._wanted, self._choice = plan.wanted, plan.choice
        self._names = list(plan.names)
        self._spent = 0.0  # on weak answers that were given up
        self._cascade = plan.cascade
        self._current: MemberStream | None = None
        self._door: MemberDoor | None = None
        self._began = time.perf_counter()
        self._first_s: float | None = None
        self._restored: RestoredParts | None = None
        self._patience = Patience(self._give_up)
        self._said = False  # the current member, anything at all
        self._shown = False
        self._cancelled = False
        self._over = False
        self._waiting: list[Part] = []
        opened, choice = generator.opened, plan.choice
        routing = Routing(
            opened.name, opened.version.number, plan.names[0], choice.member, "", False, plan.why,
            choice.probability, choice.threshold, choice.cost, opened.spec.cost_unit,
            sticky=plan.sticky, guard=plan.guarded.record,
        )  # fmt: skip
        self.routing = replace(routing, decision=generator.record(routing, plan))

    # --- as a FarStream -------------------------------------------------------------------

    def parts(self) -> PartIterator:
        return PartIterator(self)

    def __iter__(self) -> Iterator[Piece]:
        for part in self.parts():
            if isinstance(part, TextPart) and not part.thinking:
                yield Piece(part.text, 1)

    def text(self) -> str:
        """Wait for the end; the whole answer's text."""
        return "".join(piece.text for piece in self)

    def cancel(self) -> None:
        self._cancelled = True
        if self._current is not None:
            self._current.cancel()

    def next_part(self) -> Part | None:
        """Raises the last member's error where nobody could answer."""
        while not self._over and not self._waiting:
            if self._cancelled and self._current is None:
                self._end_unasked()
                break
            try:
                stream = self._current or self._begin()
                part = stream.next_part()
            except Escalate:
                self._escalate()
                continue
            except LocalLLMError as error:
                self._failed(error)
                continue
            self._patience.stop()
            if self._patience.ended and not self._shown and not self._cancelled:
                self._failed(TooSlow("no word in time"))
                continue
            if part is None and self._is_empty(stream):
                self._failed(SaidNothing(f"{self.routing.member}: an answer without a word"))
                continue
            if part is not None and not self._said and self._is_other_model(stream):
                continue
            if part is None:
                self._end()
                break
            self._said = True
            self._waiting += [part] if self._restored is None else self._restored.part(part)
        if not self._waiting:
            return None
        self._note(self._waiting[0])
        return self._waiting.pop(0)

    # --- inside ---------------------------------------------------------------------------

    def _standing(self) -> Standing:
        return self._generator.opened.standings[self.routing.member]

    def _begin(self) -> MemberStream:
        """Ask the next member. Raises what asking raises."""
        name = self._names[0]
        standing = self._generator.opened.standings[name]
        self.routing = replace(
            self.routing, member=name, model=standing.answers,
            outside=standing.outside,
        )  # fmt: skip
        wanted = self._wanted
        self._restored, self._said = None, False
        policy = self._generator.opened.spec.privacy
        if self._plan.guarded.action is Action.MASK and policy.watches(standing.outside):
            masker = Masker()  # a request carries all its turns; another's data are not in it
            wanted = replace(wanted, messages=masked(wanted.messages or (), policy, masker))
            self._restored = RestoredParts(masker, json_text=wanted.schema is not None)
        door = self._door = self._generator.door(name)
        self._patience.begin(standing.member.first_token_s)  # loading a model does not count
        step = self._choice.cascade
        limit = self._choice.threshold
        if self._cascade and step is not None and name == step.weak and limit is not None:
            self._current = door.cascade(wanted, step, limit)
        else:
            self._current = door.ask(wanted, self.routing.decision)
        if self._patience.ended or self._cancelled:  # meanwhile, when there was nobody to tell
            self._current.cancel()
        return self._current

    def _escalate(self) -> None:
        """The weak member's answer was not sure: the strong one is asked, then who is left."""
        self._patience.stop()
        self._judged()
        self._release()
        step = self._choice.cascade
        assert step is not None
        if isinstance(self._current, CascadeStream):
            unit = self._generator.opened.spec.cost_unit
            n_weak = self._current.judged.tokens
            lost = cost_of(self._standing().member, unit, self._plan.asked.tokens, n_weak)
            self._spent += 0.0 if lost != lost else lost
        self._cascade, self._current = False, None
        rest = [name for name in self._names[1:] if name != step.strong]
        standing = self._generator.opened.standings[step.strong]
        may_ask = not (standing.outside and self._plan.guarded.must_stay)
        # where the strong one may not see it, the weak one's answer is the best there is
        self._names = [step.strong, *rest, step.weak] if may_ask else [step.weak]

    def _judged(self) -> None:
        if isinstance(self._current, CascadeStream):
            found = self._current.judged
            self.routing = replace(
                self.routing, probability=found.probability, escalated=found.escalated,
                signals=dict(found.signals),
            )  # fmt: skip

    def _failed(self, error: LocalLLMError) -> None:
        """Record it, and go on with the next member; or raise it where there is none, where words
        of this one were shown already, or where another would say the same."""
        self._patience.stop()
        if self._patience.ended:
            limit = self._standing().member.first_token_s
            error = TooSlow(f"{self.routing.member}: no word within {limit:g} s")
        if self._standing().endpoint is not None and not self._cancelled:
            self._generator.resting.failed(self.routing.member, error)
        failure = Failed(self.routing.member, error.kind, error.message)
        self.routing = replace(self.routing, failures=(*self.routing.failures, failure))
        self._current, self._patience.ended = None, False
        self._release()
        if self._shown or self._cancelled or len(self._names) < 2 or not hands_on(error):
            self._over = True
            self._unanswered()
            raise error
        self._names.pop(0)

    def _is_empty(self, stream: MemberStream) -> bool:
        """Nothing was said, nobody wanted that, and there is another who can be asked. What the
        prompt cost is spent."""
        account = stream.accounting
        if self._said or self._cancelled or self._wanted.sampling.stop or len(self._names) < 2:
            return False
        if account is None or account.finish_reason != "stop":
            return False
        self._spent = self._cost(account) or self._spent
        return True

    def _is_other_model(self, stream: MemberStream) -> bool:
        """Before its first word is shown, where such an answer is not wanted. What it cost so far
        is spent."""
        says = self._other_name()
        if says is None or self._generator.opened.spec.fallback.other_model == "tell":
            return False
        stream.cancel()
        while stream.next_part() is not None:
            pass
        self._spent = self._cost(stream.accounting) or self._spent
        self._failed(OtherModel(f"{self.routing.member} says that it is {says}, not as asked"))
        return True

    def _end_unasked(self) -> None:
        """Cancelled before anybody was asked."""
        self._over = True
        self._unanswered()
        account = Accounting(0, 0, 0, 0.0, 0.0, 0.0, "cancelled", -1)
        self.accounting = self._account(account)

    def _unanswered(self) -> None:
        """What was expected to be spent was not; on an answer that broke off nobody knows."""
        self.routing = replace(self.routing, cost=self._spent or None)
        self._generator.finish(self.routing, False, None)

    def _end(self) -> None:
        self._over = True
        assert self._current is not None
        self._judged()
        if self._restored is not None:
            self._waiting += self._restored.rest()
        self._show(bool(self._waiting))
        account = self._current.accounting
        self.model = f"{self.routing.member} ({self._current.model or self.routing.model})"
        self.routing = replace(
            self.routing, cost=self._cost(account), says=self._other_name(), **doubts(account)
        )  # fmt: skip
        self.accounting = None if account is None else self._account(account)
        self._release()
        answered = self._shown or not self._cancelled  # who left before a word had no answer
        self._generator.finish(self.routing, answered, self._first_s, account)
        if not self._cancelled:
            self._generator.resting.answered(self.routing.member)
            self._generator.sticky.keep(self._wanted.messages or (), self.routing.member)

    def _account(self, account: Accounting) -> Accounting:
        return as_routed(account, self.routing, self.model, self._first_s)

    def _other_name(self) -> str | None:
        """What the endpoint says that it is, where that is not what was asked for."""
        endpoint = self._standing().endpoint
        said = None if self._current is None else self._current.model
        return said if endpoint is not None and another_model(endpoint.model, said) else None

    def _release(self) -> None:
        door, self._door = self._door, None
        if door is not None:
            door.release()

    def _cost(self, account: Accounting | None) -> float | None:
        unit = self._generator.opened.spec.cost_unit
        return paid(account, self._standing().member, unit, self._spent)

    def _note(self, part: Part) -> None:
        self._show(True)
        self._judged()
        if isinstance(part, TextPart):
            self.thinking += part.text if part.thinking else ""
        elif isinstance(part, CallStart):
            self.calls = (*self.calls, ToolCall(part.id, part.name, ""))
        elif isinstance(part, CallArguments):
            last = self.calls[-1]
            self.calls = (*self.calls[:-1], replace(last, arguments=last.arguments + part.text))

    def _show(self, anything: bool) -> None:
        if anything and not self._shown:
            self._shown, self._first_s = True, time.perf_counter() - self._began

    def _give_up(self) -> None:
        if self._current is not None:
            self._current.cancel()
