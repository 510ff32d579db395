"""A new router from what the command line says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from localllm.errors import UsageProblem
from localllm.registry import Registry
from localllm.registry.endpoints import Endpoints
from localllm.registry.routers import KeptRouter, Routers
from localllm.route.deciding.rules import check_rule
from localllm.route.pool.member import CostUnit, Member, check_name, parse_member
from localllm.route.pool.spec import Fallback, RouterSpec
from localllm.route.pool.standing import check_new, measured
from localllm.route.pool.steps import (
    AlwaysStep,
    CascadeStep,
    LengthStep,
    PredictorStep,
    RandomStep,
    RulesStep,
    Step,
)
from localllm.route.pool.writing import as_toml

Strategy = Literal["predictor", "cascade", "length", "random", "always"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)


@dataclass(frozen=True)
class Wish:
    """As typed. Members in the order from cheap to good; `weak` and `strong` None are the first
    and the last that is a model or an endpoint. `costs` are `NAME=IN/OUT` a million tokens."""

    members: tuple[str, ...]
    strategy: str | None = None
    weak: str | None = None
    strong: str | None = None
    threshold: float | None = None
    costs: tuple[str, ...] = ()
    fallback: tuple[str, ...] | None = None
    cost_unit: CostUnit = "money"
    description: str = ""


def make_spec(wish: Wish) -> RouterSpec:
    """Raises UsageProblem for an empty pool, names that are none, a strategy that cannot be."""
    members = tuple(parse_member(text) for text in wish.members)
    if not members:
        raise UsageProblem(
            "a router without members routes nothing", "--member small=MODEL --member big=MODEL"
        )
    _check_names(members)
    for text in wish.costs:
        members = _with_cost(members, text)
    answering = [one.name for one in members if one.kind != "human"] or [members[0].name]
    weak, strong = wish.weak or answering[0], wish.strong or answering[-1]
    step = _step(wish, weak, strong, alone=len(members) == 1)
    order = wish.fallback
    if order is None:
        order = tuple(dict.fromkeys([strong, *reversed(answering)])) if len(answering) > 1 else ()
    return RouterSpec(
        members, (step,), Fallback(order), cost_unit=wish.cost_unit, description=wish.description
    )


def _check_names(members: Sequence[Member]) -> None:
    """Raises UsageProblem for two members of one name, which may be the last words of two
    models."""
    seen: dict[str, Member] = {}
    for one in members:
        twin = seen.setdefault(one.name, one)
        if twin is not one:
            refs = " and ".join(dict.fromkeys(m.ref or m.kind for m in (twin, one)))
            raise UsageProblem(
                f"two members are called {one.name}: {refs}",
                f"--member {one.name}={twin.ref or twin.kind} --member {one.name}-2="
                f"{one.ref or one.kind}",
            )


def create(registry: Registry, name: str, spec: RouterSpec) -> KeptRouter:
    """Keep a new router; its members must be there. Raises NotFound, UsageProblem."""
    check_name(name, "a router's name")
    spec = replace(spec, members=tuple(_as_it_is(one, registry) for one in spec.members))
    check_new(spec, registry)
    check_steps(spec)
    spec = replace(spec, members=tuple(measured(one, registry) for one in spec.members))
    return Routers(registry).add(name, as_toml(spec, {"by": "create"}), made_by="create", new=True)


def _as_it_is(member: Member, registry: Registry) -> Member:
    """An endpoint's bare name means the endpoint: no model has the same name."""
    if (
        member.kind == "model"
        and not member.adapters
        and Endpoints.of(registry).find(member.ref) is not None
    ):
        return replace(member, kind="endpoint")
    return member


def check_steps(spec: RouterSpec) -> None:
    """What only using a step would find: patterns that are none."""
    for step in spec.steps:
        if isinstance(step, RulesStep):
            for rule in step.rules:
                check_rule(rule)


def _step(wish: Wish, weak: str, strong: str, *, alone: bool) -> Step:
    strategy = wish.strategy or ("always" if alone else "predictor")
    if strategy not in STRATEGIES:
        raise UsageProblem(f"--strategy {strategy!r} is none of {', '.join(STRATEGIES)}")
    if strategy == "always":
        if wish.threshold is not None:
            raise UsageProblem("--strategy always has no threshold")
        return AlwaysStep(strong)
    if weak == strong:
        raise UsageProblem(
            f"--strategy {strategy} chooses between two members, and there is only {weak}",
            "--member small=MODEL --member big=MODEL",
        )
    given: dict[str, Any] = {} if wish.threshold is None else {"threshold": wish.threshold}
    if strategy == "predictor":
        return PredictorStep(weak, strong, **given)
    if strategy == "cascade":
        return CascadeStep(weak, strong, **given)
    if strategy == "random":
        share = 0.5 if wish.threshold is None else wish.threshold
        return RandomStep(weak, strong, share)
    if wish.threshold is not None:
        raise UsageProblem("--strategy length has no threshold", "write it: route create --from")
    return LengthStep(weak, strong)


def _with_cost(members: Sequence[Member], text: str) -> tuple[Member, ...]:
    name, _, prices = text.partition("=")
    first, _, last = prices.partition("/")
    try:
        given = (float(first), float(last or first))
    except ValueError:
        raise UsageProblem(
            f"--cost {text!r} is not NAME=INPUT/OUTPUT", "--cost big=0.5/1.5"
        ) from None
    if name not in [one.name for one in members]:
        raise UsageProblem(f"--cost names {name!r}, which is no member")
    return tuple(
        replace(one, cost=replace(one.cost, input_per_mtok=given[0], output_per_mtok=given[1]))
        if one.name == name
        else one
        for one in members
    )
