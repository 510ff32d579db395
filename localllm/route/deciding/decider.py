"""The steps of a router, one after the other, and what each of them said."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

from localllm.errors import UsageProblem
from localllm.route.deciding.asked import Asked
from localllm.route.deciding.domains import DomainMap
from localllm.route.deciding.rules import Spent, Stopped, check_rule, first_rule
from localllm.route.pool.member import cost_of
from localllm.route.pool.spec import RouterSpec
from localllm.route.pool.steps import (
    AlwaysStep,
    CascadeStep,
    DomainsStep,
    LengthStep,
    PredictorStep,
    RandomStep,
    RulesStep,
    Step,
)
from localllm.route.predictors.embedded import Embedder
from localllm.route.router import Router


@dataclass(frozen=True)
class Stepped:
    """What one step said; `to` is the member that it chose, None where it passed."""

    use: str
    to: str | None
    why: str


@dataclass(frozen=True)
class Choice:
    """`probability` that only the strong member answers well, where the last step has one.
    `cost` is what the answer is expected to cost in the router's unit, None where that is not
    known. With `cascade` the member answers first and its own answer decides."""

    member: str
    probability: float | None
    threshold: float | None
    steps: tuple[Stepped, ...]
    cost: float | None
    cascade: CascadeStep | None = None

    @property
    def why(self) -> str:
        last = self.steps[-1]
        return f"{last.use}: {last.why}" if last.why else last.use


class Decider:
    """Thread-safe. `router` is needed by the step `predictor`."""

    def __init__(
        self,
        spec: RouterSpec,
        router: Router | None,
        *,
        embedder: Callable[[], Embedder] | None = None,
        spent: Spent = lambda since: 0.0,
        name: str = "NAME",
    ) -> None:
        """`name` is the router's own, for hints. Raises UsageProblem for a router that was not
        trained, or a pattern that is none."""
        if spec.predictor is not None and router is None:
            raise UsageProblem(
                "this router was not trained yet", f"localllm route train {name} --data FILE"
            )
        self.spec, self.router, self._spent = spec, router, spent
        self._maps: dict[int, DomainMap] = {}
        for number, step in enumerate(spec.steps):
            if isinstance(step, RulesStep):
                for rule in step.rules:
                    check_rule(rule)
            if isinstance(step, DomainsStep):
                by = embedder() if step.by == "embedding" and embedder is not None else None
                self._maps[number] = DomainMap(step, by)

    def decide(self, asked: Asked, threshold: float | None = None) -> Choice:
        """`threshold` in place of the last step's own. Raises UsageProblem."""
        if threshold is not None:
            self.check_threshold(threshold)
        said: list[Stepped] = []
        for number, step in enumerate(self.spec.steps):
            choice = self._step(number, step, asked, threshold, said)
            if choice is not None:
                return choice
        raise AssertionError("the last step always chooses")

    def check_threshold(self, threshold: float) -> None:
        if self.spec.threshold is None and not isinstance(self.spec.last, RandomStep):
            raise UsageProblem(f"the step {self.spec.last.use} has no threshold to change")
        if not (math.isfinite(threshold) and 0 <= threshold <= 1):
            raise UsageProblem(f"a threshold is a probability from 0 to 1, not {threshold}")

    def _step(
        self, number: int, step: Step, asked: Asked, threshold: float | None, said: list[Stepped]
    ) -> Choice | None:
        if isinstance(step, RulesStep):
            stopped = Stopped()
            fired = first_rule(step.rules, asked, self._spent, stopped)
            if fired is None:
                said.append(Stepped(step.use, None, f"no rule holds{stopped}"))
                return None
            name = f"{fired.rule.name}: " if fired.rule.name else ""
            return self._chosen(step, fired.rule.to, f"{name}{fired.why}{stopped}", asked, said)
        if isinstance(step, DomainsStep):
            return self._domain(number, step, asked, said)
        if isinstance(step, PredictorStep):
            return self._predicted(step, asked, threshold, said)
        if isinstance(step, CascadeStep):
            limit = step.threshold if threshold is None else threshold
            why = f"{step.weak} first, {step.strong} if its answer is not sure"
            choice = self._chosen(step, step.weak, why, asked, said)
            return Choice(choice.member, None, limit, choice.steps, choice.cost, step)
        if isinstance(step, LengthStep):
            to = step.strong if asked.chars >= step.chars else step.weak
            return self._chosen(step, to, f"{asked.chars} characters", asked, said)
        if isinstance(step, RandomStep):
            share = step.strong_share if threshold is None else threshold
            drawn = _drawn(asked.prompt)
            to = step.strong if drawn < share else step.weak
            return self._chosen(step, to, f"drawn {drawn:.2f}", asked, said)
        assert isinstance(step, AlwaysStep)
        return self._chosen(step, step.to, "", asked, said)

    def _domain(
        self, number: int, step: DomainsStep, asked: Asked, said: list[Stepped]
    ) -> Choice | None:
        found = self._maps[number].likeness(asked.prompt)
        name, cosine = found.cosines[0]
        if found.chosen is None:
            why = f"nearest {name} with {cosine:.2f}, under {step.abstain:g}"
            said.append(Stepped(step.use, None, why))
            return None
        return self._chosen(step, found.chosen.to, f"{name} with {cosine:.2f}", asked, said)

    def _predicted(
        self, step: PredictorStep, asked: Asked, threshold: float | None, said: list[Stepped]
    ) -> Choice:
        assert self.router is not None
        limit = step.threshold if threshold is None else threshold
        probability = float(self.router.probabilities([asked.prompt])[0])
        to = step.strong if probability >= limit else step.weak
        why = f"{step.strong} is needed with {probability:.2f}, threshold {limit:g}"
        choice = self._chosen(step, to, why, asked, said)
        return Choice(to, probability, limit, choice.steps, choice.cost)

    def _chosen(self, step: Step, to: str, why: str, asked: Asked, said: list[Stepped]) -> Choice:
        steps = (*said, Stepped(step.use, to, why))
        return Choice(to, None, None, steps, self.expected_cost(to, asked.tokens))

    def expected_cost(self, name: str, prompt_tokens: float) -> float | None:
        """Of an answer by this member, in the router's unit; None where that is not known."""
        spec = self.spec
        cost = cost_of(spec.member(name), spec.cost_unit, prompt_tokens, spec.answer_tokens)
        return None if math.isnan(cost) else cost


def _drawn(prompt: str) -> float:
    """From 0 to 1, the same for the same prompt: a question asked again is not drawn again."""
    digest = hashlib.sha256(prompt.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
