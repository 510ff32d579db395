"""Who may answer: a model of the registry, a server elsewhere, or a person."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from localllm.errors import UsageProblem

MemberKind = Literal["model", "endpoint", "human"]
CostUnit = Literal["money", "seconds", "joules"]
COST_UNITS: tuple[str, ...] = get_args(CostUnit)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Cost:
    """What a member's tokens cost. Prices are per million tokens, in a currency of the user's;
    seconds and joules per generated token are measured (`localllm bench`). None: not known."""

    input_per_mtok: float | None = None
    output_per_mtok: float | None = None
    seconds_per_token: float | None = None
    joules_per_token: float | None = None

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and 0 <= value <= 1e9):
                raise UsageProblem(f"a cost is a number from 0 on: {name} is {value}")


@dataclass(frozen=True)
class Member:
    """`ref` is a model's name or reference, or an endpoint's name; empty for a person.

    `adapters` are `NAME[:SCALE]` as `chat --lora` takes them. `first_token_s` is how long it may
    take until its first words come; after that the next one is asked. An endpoint counts as
    outside this machine by its address; with `outside` it does whatever its address (a tunnel).
    `draft` is the member that proposes an answer to a person, who approves or edits it.
    """

    name: str
    kind: MemberKind
    ref: str = ""
    adapters: tuple[str, ...] = ()
    cost: Cost = field(default_factory=Cost)
    first_token_s: float | None = None
    outside: bool = False
    draft: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, "a member's name")
        if (self.kind == "human") == bool(self.ref):
            raise UsageProblem(
                f"member {self.name}: a person has no model" if self.ref
                else f"member {self.name} names no {self.kind}"
            )  # fmt: skip
        if self.adapters and self.kind != "model":
            raise UsageProblem(f"member {self.name}: only models of the registry have adapters")
        if self.draft and self.kind != "human":
            raise UsageProblem(f"member {self.name}: drafts are for people")
        if self.first_token_s is not None and not 0 < self.first_token_s <= 86_400:
            raise UsageProblem(f"member {self.name}: first_token_s is from 0 to 86400 seconds")


def cost_of(member: Member, unit: CostUnit, prompt_tokens: float, answer_tokens: float) -> float:
    """What so many tokens cost with `member`, NaN where that was never measured or said.

    A local model's tokens cost no money, and neither does a person's time, which is not counted.
    """
    cost = member.cost
    if unit == "money":
        if member.kind != "endpoint" and cost.input_per_mtok is None:
            return 0.0
        given = (cost.input_per_mtok, cost.output_per_mtok)
        return (_or_nan(given[0]) * prompt_tokens + _or_nan(given[1]) * answer_tokens) / 1e6
    if member.kind == "human":
        return 0.0
    each = cost.seconds_per_token if unit == "seconds" else cost.joules_per_token
    return _or_nan(each) * answer_tokens


def check_name(text: str, what: str) -> None:
    """Raises UsageProblem for what cannot be a name in a URL, a file and `router/NAME@0.4`."""
    if not _NAME.fullmatch(text):
        raise UsageProblem(
            f"{text[:80]!r} cannot be {what}", "letters, digits, . _ and -, at most 64 of them"
        )


def parse_member(text: str) -> Member:
    """`NAME=MODEL[+ADAPTER[:SCALE]]...`, `NAME=endpoint:ENDPOINT`, `NAME=human`; without `NAME=`
    the last word of the model is its name. Raises UsageProblem."""
    name, equals, rest = text.partition("=")
    if not equals:
        name, rest = "", text
    if not rest.strip():
        raise UsageProblem(f"--member {text!r} names no model", "--member small=org/model:Q4_K_M")
    if rest == "human":
        return Member(name or "human", "human")
    if rest.startswith("endpoint:"):
        ref = rest.removeprefix("endpoint:")
        return Member(name or _last_word(ref), "endpoint", ref)
    ref, *adapters = rest.split("+")
    return Member(name or _last_word(ref), "model", ref, tuple(adapters))


def _last_word(ref: str) -> str:
    words = re.split(r"[/\\]", ref)[-1].partition(":")[0].removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", words).strip("._-")[:64] or "model"


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
