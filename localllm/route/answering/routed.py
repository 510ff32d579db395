"""A router that answers: it decides, guards, asks, hands on, and keeps what it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from localllm.closing import Closing
from localllm.errors import LocalLLMError, UsageProblem
from localllm.generation import Accounting, Message, Sampling
from localllm.registry import Registry
from localllm.registry.decisions import Decisions
from localllm.route.answering.comparing import Comparison, two_of
from localllm.route.answering.members import MemberDoor, Members
from localllm.route.answering.planning import Plan, planned
from localllm.route.answering.resting import Resting
from localllm.route.answering.routed_stream import RoutedStream
from localllm.route.answering.routing import Routing, Sticky, conversation_key
from localllm.route.deciding.guarding import told
from localllm.route.opening import OpenRouter

if TYPE_CHECKING:
    from localllm.endpoints import Wanted


class RoutedGenerator(Closing):
    """Answers conversations through a router; any number at once, from any thread."""

    def __init__(
        self, opened: OpenRouter, threshold: float | None, registry: Registry, doors: Members,
        *, tell: Callable[[str], None] = lambda text: None, keep_prompts: bool = True,
        keep: bool = True,
    ) -> None:  # fmt: skip
        """`doors` open the members, and are closed with this. `tell` is told what could not be
        kept. With `keep_prompts` decisions hold their prompt, without which nothing is learned
        from them; without `keep` no decision is kept at all."""
        self.opened, self.threshold = opened, threshold
        self.sticky = Sticky(self._kept_member)
        self.resting = Resting()
        self.last: Routing | None = None  # of the answer that ended last
        self._registry, self._doors, self.tell = registry, doors, tell
        self._decisions = Decisions(registry)
        self._keep_prompts, self._keep = keep_prompts, keep

    @property
    def name(self) -> str:
        return f"router/{self.opened.name}"

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> RoutedStream:
        from localllm.endpoints import Wanted

        return self.ask(Wanted(messages=tuple(messages), sampling=sampling))

    def ask(self, wanted: Wanted) -> RoutedStream:
        """Decide who answers; the first member is asked when the stream is read. Raises
        UsageProblem (PrivateData among them) where nobody can be asked."""
        if wanted.messages is None:
            raise UsageProblem("a router answers conversations, it continues no texts")
        if wanted.n != 1:
            raise UsageProblem("a router gives one answer (n = 1)")
        plan = planned(self.opened, self.threshold, wanted, self.sticky.find, self.resting)
        return RoutedStream(self, plan)

    def compare(self, wanted: Wanted) -> Comparison:
        """Let two members answer `wanted`, their names hidden. Raises UsageProblem (PrivateData
        among them), and what loading them raises."""
        from localllm.route.answering.alone import alone

        registry, opened = self._registry, self.opened
        sides = {
            name: alone(registry, opened, self._doors, name) for name in two_of(opened.spec)
        }  # fmt: skip
        decisions = self._decisions if self._keep else None
        return Comparison(self, self._doors, sides, wanted, decisions)

    # --- for its streams ------------------------------------------------------------------

    def door(self, name: str) -> MemberDoor:
        return self._doors.door(name)

    def record(self, routing: Routing, plan: Plan) -> int | None:
        """Keep the decision; None where that is not wanted, or could not be, which is told."""
        if not self._keep:
            return None
        held = self.held(plan.asked.prompt, routing.guard)
        data: dict[str, Any] = {
            "steps": [[s.use, s.to, s.why] for s in plan.choice.steps],
            "guard": dict(routing.guard), "sticky": routing.sticky,
            "members": [one.name for one in self.opened.spec.members],
        }  # fmt: skip
        messages = plan.wanted.messages or ()
        if held == plan.asked.prompt and not any(m.role == "assistant" for m in messages):
            data["conversation"] = conversation_key(messages)  # of private data not even that
        try:
            return self._decisions.record(
                routing.router, routing.version, member="", chosen=routing.chosen,
                probability=routing.probability, threshold=routing.threshold, cost=None,
                prompt=held, data=data,
            )  # fmt: skip
        except LocalLLMError as error:
            self.tell(f"this decision is not kept: {error.message}")
            return None

    def held(self, prompt: str, guard: Mapping[str, Any]) -> str | None:
        """What is kept of a prompt in which the guard found what `guard` says."""
        if not self._keep_prompts:
            return None
        return _without_data(prompt) if guard.get("fired") else prompt

    def _kept_member(self, messages: Sequence[Message]) -> str | None:
        """Of a conversation that began in another process, or before the router was changed."""
        if not (self._keep and self._keep_prompts):
            return None
        try:
            return self._decisions.began(self.opened.name, conversation_key(messages))
        except LocalLLMError:
            return None

    @property
    def comment(self) -> str | None:
        """Who gave the last answer and why."""
        last = self.last
        if last is None:
            return None
        said = [f"{one.member} could not answer" for one in last.failures]
        said.append(f"{last.member} answered: {last.why}")
        if last.says is not None:
            said.append(f"it says that it is {last.says}, which was not asked for")
        if last.doubt is not None:
            said.append(f"it counts what cannot be ({last.doubt})")
        if found := told(last.guard):
            said.append(f"private data: {found}")
        return "; ".join(said)

    @property
    def about(self) -> Mapping[str, Any] | None:
        """The same as plain data."""
        return None if self.last is None else asdict(self.last)

    def judge(self, verdict: str, source: str = "owner") -> str:
        """Say what one thinks of the last answer. Raises UsageProblem where there is none."""
        if self.last is None or self.last.decision is None:
            raise UsageProblem("nothing was answered yet, or the answer was not kept")
        self._decisions.judge(self.last.decision, verdict, source)
        return f"{verdict}, of {self.last.member}'s answer (decision {self.last.decision})"

    def finish(
        self, routing: Routing, answered: bool, seconds: float | None,
        account: Accounting | None = None,
    ) -> None:  # fmt: skip
        """`seconds` to the first token; `account` is of the member that answered."""
        self.last = routing
        if routing.decision is None:
            return
        failures = [[f.member, f.kind, f.message] for f in routing.failures]
        data: dict[str, Any] = {
            "failures": failures, "escalated": routing.escalated, "says": routing.says,
            "doubt": routing.doubt, "estimated": routing.estimated,
            "signals": dict(routing.signals), "first_token_s": seconds,
        }  # fmt: skip
        if account is not None and account.prompt_tokens:  # a person's answer has none
            data |= {"prompt_tokens": account.prompt_tokens,
                     "completion_tokens": account.completion_tokens}  # fmt: skip
        try:
            self._decisions.finish(
                routing.decision, member=routing.member if answered else "",
                cost=routing.cost, data=data,
            )  # fmt: skip
        except LocalLLMError as error:
            self.tell(f"this decision is not kept whole: {error.message}")

    def close(self) -> None:
        self._doors.close()


def _without_data(prompt: str) -> str:
    """What is kept of a prompt in which the guard found something: placeholders for all of it."""
    from localllm.privacy import find, mask

    return mask(prompt, find(prompt)).text
