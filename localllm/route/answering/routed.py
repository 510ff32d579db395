"""A router that answers: it decides, guards, asks, hands on, and keeps what it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from localllm.closing import Closing
from localllm.errors import LocalLLMError, UsageProblem
from localllm.generation import Accounting, Message, Sampling
from localllm.registry import Registry
from localllm.registry.decisions import Decisions
from localllm.route.answering.comparing import Comparison, two_of
from localllm.route.answering.members import MemberDoor, Members
from localllm.route.answering.routed_stream import RoutedStream
from localllm.route.answering.routing import Routing, Sticky
from localllm.route.deciding.asked import Asked
from localllm.route.deciding.decider import Choice
from localllm.route.deciding.guarding import NOTHING, Guarded, allowed, fixed_of, guard
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
        self.sticky = Sticky()
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
        messages = wanted.messages
        asked = Asked.of(messages, tools=bool(wanted.tools))
        choice = self.opened.decider.decide(asked, self.threshold)
        began = self.sticky.find(messages) if self.opened.spec.sticky else None
        is_sticky = began is not None and choice.steps[-1].use != "rules"
        first = began if is_sticky and began is not None else choice.member
        spec, standings = self.opened.spec, self.opened.standings
        guarded: Guarded = NOTHING
        if any(spec.privacy.watches(one.outside) for one in standings.values()):
            guarded = guard(messages, spec.privacy, fixed_of(wanted))
        names = tuple(dict.fromkeys((first, *spec.fallback.order)))
        names = allowed(names, spec, standings, guarded)
        cascade = choice.cascade is not None and not is_sticky
        return RoutedStream(self, wanted, choice, names, guarded, asked, is_sticky, cascade)

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

    def record(self, routing: Routing, choice: Choice, prompt: str) -> int | None:
        """Keep the decision; None where that is not wanted, or could not be, which is told."""
        if not self._keep:
            return None
        held = self.held(prompt, routing.guard)
        data = {
            "steps": [[s.use, s.to, s.why] for s in choice.steps], "guard": dict(routing.guard),
            "sticky": routing.sticky, "members": [one.name for one in self.opened.spec.members],
        }  # fmt: skip
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

    @property
    def comment(self) -> str | None:
        """Who gave the last answer and why."""
        last = self.last
        if last is None:
            return None
        failed = "".join(f"{one.member} could not answer; " for one in last.failures)
        return f"{failed}{last.member} answered: {last.why}"

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
