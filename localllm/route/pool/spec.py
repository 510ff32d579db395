"""A router's description: everything about it but what it learned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from localllm.errors import UsageProblem
from localllm.privacy import Policy
from localllm.route.pool.member import COST_UNITS, CostUnit, Member
from localllm.route.pool.steps import DECIDING, CascadeStep, PairStep, PredictorStep, Step

Missing = Literal["refuse", "fallback"]
MISSING: tuple[str, ...] = get_args(Missing)
OtherModel = Literal["tell", "fallback"]
OTHER_MODEL: tuple[str, ...] = get_args(OtherModel)
MAX_MEMBERS = 64
MAX_STEPS = 16


@dataclass(frozen=True)
class Fallback:
    """Who is asked when the one that was chosen cannot answer (down, overloaded, too slow, out of
    context), in this order; members that are not named are never asked in its place.

    `missing` says what happens where a member's model was removed: the router refuses to work,
    naming it, or such a member counts as one that cannot answer. `other_model` says what an
    endpoint's answer is worth that calls itself another model than the one it was asked for: it
    stays and that is told, or the next member is asked.
    """

    order: tuple[str, ...] = ()
    missing: Missing = "refuse"
    other_model: OtherModel = "tell"


@dataclass(frozen=True)
class RouterSpec:
    """Members, the steps that choose among them, and what is done when one fails.

    `answer_tokens` is how long an answer is taken to be where costs are estimated beforehand.
    `human_wait_s` is how long a client waits for a person.
    """

    members: tuple[Member, ...]
    steps: tuple[Step, ...]
    fallback: Fallback = field(default_factory=Fallback)
    privacy: Policy = field(default_factory=Policy)
    cost_unit: CostUnit = "money"
    answer_tokens: int = 256
    human_wait_s: float = 300.0
    sticky: bool = True  # a conversation stays with the member that began it
    description: str = ""

    def __post_init__(self) -> None:
        if not self.members:
            raise UsageProblem(
                "a router without members routes nothing", "--member small=MODEL --member big=MODEL"
            )
        if len(self.members) > MAX_MEMBERS or len(self.steps) > MAX_STEPS:
            raise UsageProblem(f"a router has at most {MAX_MEMBERS} members, {MAX_STEPS} steps")
        names = [one.name for one in self.members]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise UsageProblem(f"two members are called {twice}")
        if not self.steps or not isinstance(self.steps[-1], DECIDING):
            raise UsageProblem(
                "the last step must always choose a member",
                f"end with one of {', '.join(step.use for step in DECIDING)}",
            )
        early = next((s for s in self.steps[:-1] if isinstance(s, DECIDING)), None)
        if early is not None:
            raise UsageProblem(f"nothing can come after the step {early.use}: it always chooses")
        self._check_names(set(names))
        if self.cost_unit not in COST_UNITS:
            raise UsageProblem(f"cost_unit is one of {', '.join(COST_UNITS)}")
        if not 1 <= self.answer_tokens <= 1_000_000 or not 0 < self.human_wait_s <= 604_800:
            raise UsageProblem("answer_tokens is 1 to 1000000, human_wait_s up to a week")

    def _check_names(self, names: set[str]) -> None:
        used = [(name, f"step {step.use}") for step in self.steps for name in step.members]
        used += [(name, "fallback") for name in self.fallback.order]
        used += [(one.draft, f"member {one.name}") for one in self.members if one.draft]
        for name, where in used:
            if name not in names:
                raise UsageProblem(
                    f"{where} names {name!r}, which is no member",
                    f"members are {', '.join(sorted(names))}",
                )
        for one in self.members:
            if one.draft and self.member(one.draft).kind == "human":
                raise UsageProblem(f"member {one.name}: a draft is a model's, not a person's")
        if isinstance(self.last, CascadeStep) and self.member(self.last.weak).kind != "model":
            raise UsageProblem(
                f"cascade: {self.last.weak} is no model that runs here: how sure it is "
                "cannot be seen"
            )
        if self.fallback.missing not in MISSING:
            raise UsageProblem(f"fallback.missing is one of {', '.join(MISSING)}")
        if self.fallback.other_model not in OTHER_MODEL:
            raise UsageProblem(f"fallback.other_model is one of {', '.join(OTHER_MODEL)}")

    def member(self, name: str) -> Member:
        """Raises UsageProblem naming those that there are."""
        found = next((one for one in self.members if one.name == name), None)
        if found is None:
            names = ", ".join(one.name for one in self.members)
            raise UsageProblem(f"no member is called {name!r}", f"members are {names}")
        return found

    @property
    def last(self) -> Step:
        return self.steps[-1]

    @property
    def predictor(self) -> PredictorStep | None:
        return self.last if isinstance(self.last, PredictorStep) else None

    @property
    def pair(self) -> tuple[str, str] | None:
        """(weak, strong) of the last step, None where that has no such two."""
        return (self.last.weak, self.last.strong) if isinstance(self.last, PairStep) else None

    @property
    def threshold(self) -> float | None:
        is_one = isinstance(self.last, PredictorStep | CascadeStep)
        return self.last.threshold if is_one else None  # type: ignore[union-attr]
