"""Who is to be asked, before anybody is: the decision, the conversation's own member, the guard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm.generation import Message
from localllm.route.answering.resting import Resting
from localllm.route.deciding.asked import Asked
from localllm.route.deciding.decider import Choice
from localllm.route.deciding.guarding import NOTHING, Guarded, allowed, fixed_of, guard
from localllm.route.opening import OpenRouter

if TYPE_CHECKING:
    from localllm.endpoints import Wanted

Began = Callable[[Sequence[Message]], str | None]  # who began this conversation


@dataclass(frozen=True)
class Plan:
    """`names` are asked in this order; `why` says why the first of them is. `sticky`: it began
    the conversation. With `cascade` its answer decides whether it stays."""

    wanted: Wanted
    asked: Asked
    choice: Choice
    guarded: Guarded
    names: tuple[str, ...]
    why: str
    sticky: bool
    cascade: bool


def planned(
    opened: OpenRouter, threshold: float | None, wanted: Wanted, began: Began, resting: Resting
) -> Plan:
    """Raises UsageProblem (PrivateData among them) where nobody can be asked."""
    messages = wanted.messages or ()
    asked = Asked.of(messages, tools=bool(wanted.tools))
    choice = opened.decider.decide(asked, threshold)
    spec, standings = opened.spec, opened.standings
    guarded: Guarded = NOTHING
    if any(spec.privacy.watches(one.outside) for one in standings.values()):
        guarded = guard(messages, spec.privacy, fixed_of(wanted))
    first = stays_with(opened, choice, messages, began)
    why = choice.why if first is None else f"{first} began this conversation"
    chosen = first or choice.member
    names = allowed(tuple(dict.fromkeys((chosen, *spec.fallback.order))), spec, standings, guarded)
    if names[0] != chosen:
        why = f"{chosen} may not see what is private; {why}"
    first_s = resting.rest_s(names[0])
    if (awake := resting.last(names))[0] != names[0]:
        why = f"{names[0]} failed of late and rests for {first_s:.0f} s more; {why}"
    names = awake
    cascade = choice.cascade is not None and first is None
    return Plan(wanted, asked, choice, guarded, names, why, first is not None, cascade)


def stays_with(
    opened: OpenRouter, choice: Choice, messages: Sequence[Message], began: Began
) -> str | None:
    """The member that goes on with this conversation, None where the choice counts: it begins, the
    router is not sticky, or a rule fired."""
    if not opened.spec.sticky or choice.steps[-1].use == "rules":
        return None
    name = began(messages)
    return name if name in opened.standings else None
