"""What an answer through a router cost, and what the counts are worth that say so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from localllm.generation import Accounting
from localllm.route.answering.routing import Routing
from localllm.route.pool.member import CostUnit, Member, cost_of


def paid(
    account: Accounting | None, member: Member, unit: CostUnit, spent: float
) -> float | None:  # fmt: skip
    """By the answer's own counts, with what was `spent` on answers that were given up; None where
    it is not known."""
    if account is None:
        return spent or None
    own = getattr(account, "cost", None) if unit == "money" else None
    if own is not None:
        return float(own) + spent
    found = cost_of(member, unit, account.prompt_tokens, account.completion_tokens)
    return None if found != found else found + spent


def as_routed(
    account: Accounting, routing: Routing, model: str | None, first_s: float | None
) -> Accounting:
    """As the endpoints' accounts are: with who answered and what it cost. The first token counts
    from the question on, with all who were asked in vain."""
    from localllm.endpoints import EndpointAccounting

    first_s = account.first_token_s if first_s is None else first_s
    money = routing.cost if routing.cost_unit == "money" else None
    if isinstance(account, EndpointAccounting):
        return replace(account, model=model, cost=money, first_token_s=first_s)
    values = {name: getattr(account, name) for name in Accounting.__dataclass_fields__}
    values["first_token_s"] = first_s
    return EndpointAccounting(**values, model=model, cost=money)


def doubts(account: Accounting | None) -> dict[str, Any]:
    """The fields of a Routing that tell what an endpoint's counts are worth."""
    from localllm.endpoints import EndpointAccounting

    if not isinstance(account, EndpointAccounting):
        return {}
    return {"doubt": account.doubt, "estimated": not account.counted}
