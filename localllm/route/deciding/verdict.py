"""A decision as it is told: who would answer, after the guard has had its say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localllm.generation import Message
from localllm.route.deciding.asked import Asked
from localllm.route.deciding.decider import Choice, Stepped
from localllm.route.deciding.guarding import NOTHING, Guarded, allowed, guard
from localllm.route.opening import OpenRouter


@dataclass(frozen=True)
class DecidedNow:
    """Who would answer. `guard` are the kinds of private data found, with counts; `chosen` is
    whom the steps chose before the guard had its say. `sticky`: the member began the conversation,
    and goes on with it whatever the steps chose."""

    router: str
    version: int
    member: str
    chosen: str
    model: str
    outside: bool
    probability: float | None
    threshold: float | None
    cost: float | None
    cost_unit: str
    cascade: bool
    why: str
    steps: tuple[Stepped, ...]
    guard: Mapping[str, Any]
    members_missing: Mapping[str, str]
    sticky: bool = False


def decided(
    opened: OpenRouter, choice: Choice, messages: Sequence[Message], fixed: Sequence[str] = (),
    began: str | None = None,
) -> DecidedNow:  # fmt: skip
    """With the guard's say, also on what is `fixed` beside the messages. `began` goes on with this
    conversation in place of the choice. Raises PrivateData, MissingExtra."""
    spec = opened.spec
    found = opened.standings
    others = (name for name in spec.fallback.order if found[name].problem is None)
    wanted = began or choice.member
    names = tuple(dict.fromkeys((wanted, *others)))
    if spec.fallback.missing == "fallback" and found[wanted].problem is not None:
        names = names[1:] or names  # who is gone is passed over
    guarded: Guarded = NOTHING
    if any(spec.privacy.watches(one.outside) for one in found.values()):
        guarded = guard(messages, spec.privacy, fixed)
    first = allowed(names, spec, found, guarded)[0]
    cost = choice.cost  # of whom the steps chose, which another's is not
    if first != choice.member:
        cost = opened.decider.expected_cost(first, Asked.of(messages).tokens)
    missing = {n: one.problem for n, one in found.items() if one.problem is not None}
    return DecidedNow(
        opened.name, opened.version.number, first, choice.member, found[first].answers,
        found[first].outside, choice.probability, choice.threshold, cost, spec.cost_unit,
        choice.cascade is not None and began is None,
        choice.why if began is None else f"{began} began this conversation", choice.steps,
        guarded.record, missing, began is not None,
    )  # fmt: skip
