"""How a router's members stand in this home: found or not, here or elsewhere, at what price."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from localllm.errors import FileGone, LocalLLMError, NotFound, UsageProblem
from localllm.library.find import find_adapter, find_runnable
from localllm.registry import Model, Registry
from localllm.route.pool.member import Cost, Member
from localllm.route.pool.spec import RouterSpec

if TYPE_CHECKING:
    from localllm.endpoints import Endpoint


@dataclass(frozen=True)
class Standing:
    """A member and what its name leads to here. `problem` says why it cannot answer."""

    member: Member
    outside: bool
    problem: str | None = None
    model: Model | None = None
    endpoint: Endpoint | None = None

    @property
    def answers(self) -> str:
        """The name of who answers; of a file that is not registered its own, without folders."""
        if self.model is not None:
            return self.model.name if self.model.id is not None else self.model.path.stem
        return self.endpoint.name if self.endpoint is not None else self.member.kind


def standing_of(member: Member, registry: Registry) -> Standing:
    """Never raises for what is missing: that is what it tells."""
    try:
        if member.kind == "model":
            model = find_runnable(member.ref, registry)
            for text in member.adapters:
                find_adapter(text, registry)
            return Standing(member, member.outside, model=model)
        if member.kind == "endpoint":
            endpoint = find_endpoint(member.ref, registry)
            outside = member.outside or not endpoint.is_this_machine
            return Standing(_priced(member, endpoint), outside, endpoint=endpoint)
    except LocalLLMError as error:
        return Standing(member, member.kind == "endpoint", error.message)
    return Standing(member, member.outside)


def standings(spec: RouterSpec, registry: Registry) -> dict[str, Standing]:
    return {member.name: standing_of(member, registry) for member in spec.members}


def check_members(spec: RouterSpec, registry: Registry) -> dict[str, Standing]:
    """Raises NotFound naming the first member that is gone, unless the router's own fallback
    says that such a one is passed over, and somebody is left."""
    found = standings(spec, registry)
    gone = [one for one in found.values() if one.problem is not None]
    if gone and spec.fallback.missing == "refuse":
        one = gone[0]
        raise NotFound(
            f"member {one.member.name}: {one.problem}",
            'pull it again, or let the router do without it: [fallback] missing = "fallback"',
        )
    if len(gone) == len(found):
        raise NotFound("none of the router's members is there any more", "localllm route show NAME")
    return found


def check_new(spec: RouterSpec, registry: Registry) -> dict[str, Standing]:
    """The same for a router that is being made: every member must be there."""
    found = standings(spec, registry)
    for one in found.values():
        if one.problem is not None:
            hint = "localllm endpoint list" if one.member.kind == "endpoint" else "localllm list"
            raise NotFound(f"member {one.member.name}: {one.problem}", hint)
    return found


def find_endpoint(name: str, registry: Registry) -> Endpoint:
    """Raises NotFound, DamagedFile."""
    from localllm.library.endpoints import find_endpoint as found

    return found(name, registry)


def measured(member: Member, registry: Registry) -> Member:
    """`member` with the seconds and joules a token that `localllm bench` measured of its model,
    where the user gave none: the median of the latest run's generation tests."""
    if member.kind != "model":
        return member
    try:
        model = find_runnable(member.ref, registry)
    except (NotFound, FileGone, UsageProblem):
        return member
    for kept in registry.measurements(model, "bench"):
        found = _per_token(kept.data)
        if found is not None:
            seconds, joules = found
            cost = replace(
                member.cost,
                seconds_per_token=_either(member.cost.seconds_per_token, seconds),
                joules_per_token=_either(member.cost.joules_per_token, joules),
            )
            return replace(member, cost=cost)
    return member


def _per_token(run: Mapping[str, Any]) -> tuple[float, float | None] | None:
    rows = run.get("rows")
    generated = [
        row for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, Mapping) and not row.get("n_prompt") and row.get("failure") is None
        and isinstance(row.get("avg_ts"), int | float) and row["avg_ts"] > 0
    ]  # fmt: skip
    if not generated:
        return None
    seconds = statistics.median(1 / float(row["avg_ts"]) for row in generated)
    evidence = [row["evidence"] for row in generated if isinstance(row.get("evidence"), Mapping)]
    joules = [one["joules_per_token"] for one in evidence if one.get("joules_per_token")]
    return seconds, statistics.median(joules) if joules else None


def _priced(member: Member, endpoint: Endpoint) -> Member:
    """An endpoint's own prices, where the router has none."""
    cost: Cost = replace(
        member.cost,
        input_per_mtok=_either(member.cost.input_per_mtok, endpoint.price_in),
        output_per_mtok=_either(member.cost.output_per_mtok, endpoint.price_out),
    )
    return replace(member, cost=cost)


def _either(given: float | None, found: float | None) -> float | None:
    return found if given is None else given
