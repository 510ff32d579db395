"""What is done about what was found: nothing, a mask, or no leaving of this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar

from localllm.errors import UsageProblem
from localllm.privacy.find import LIKELY, find
from localllm.privacy.finding import GROUPS, Finding, Kind


class Action(StrEnum):
    """What happens to a text with data of a kind."""

    ALLOW = "allow"
    MASK = "mask"  # placeholders go out, the answer is restored
    LOCAL = "local"  # the text goes to members on this machine only


class Scope(StrEnum):
    """Which members the guard watches."""

    OUTSIDE = "outside"  # those that are not on this machine
    ALL = "all"
    NONE = "none"


_E = TypeVar("_E", bound=StrEnum)
_STRICTNESS = (Action.ALLOW, Action.MASK, Action.LOCAL)
# a corporate number is published in a public register; what identifies a person to the state
# or opens an account stays here; what an answer may well need to name is masked
_DEFAULTS: Mapping[Kind, Action] = MappingProxyType({
    **dict.fromkeys(Kind, Action.LOCAL),
    Kind.EMAIL: Action.MASK,
    Kind.PHONE: Action.MASK,
    Kind.ADDRESS: Action.MASK,
    Kind.BIRTH_DATE: Action.MASK,
    Kind.IP: Action.MASK,
    Kind.CORPORATE_NUMBER: Action.ALLOW,
})  # fmt: skip


@dataclass(frozen=True)
class Policy:
    """An action for each kind; `actions` names those that differ from the default policy.

    Masked by default: e-mail, phone, address, date of birth, IP. Allowed: corporate numbers.
    Everything else stays on this machine. A finding below `min_confidence` is left alone.
    """

    actions: Mapping[Kind, Action] = field(default_factory=dict)
    scope: Scope = Scope.OUTSIDE
    min_confidence: float = LIKELY

    def action(self, kind: Kind) -> Action:
        return self.actions.get(kind, _DEFAULTS[kind])

    def watches(self, outside: bool) -> bool:
        """Whether a member is watched that is (or is not) outside this machine."""
        return self.scope is Scope.ALL or (self.scope is Scope.OUTSIDE and outside)

    @property
    def laxer(self) -> tuple[str, ...]:
        """What it lets go that the default policy does not: kinds ("everything" for all), and
        findings that are not sure. A policy from a file of somebody else's may."""
        if self.scope is Scope.NONE:
            return ("everything",)
        held = [kind for kind in Kind if _DEFAULTS[kind] is not Action.ALLOW]
        free = [k for k in held if _level(self.action(k)) < _level(_DEFAULTS[k])]
        if all(self.action(kind) is Action.ALLOW for kind in held):
            return ("everything",)
        found = [kind.value for kind in free]
        if self.min_confidence > LIKELY:
            found.append(f"what is less sure than {self.min_confidence:g}")
        return tuple(found)

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Policy:
        """A policy from a router's file: `{"email": "allow", "secrets": "local",
        "applies_to": "all", "min_confidence": 0.7}`.

        Names are those of `Kind`, of the groups contact, financial, identity and secrets, or
        `default` for all; the narrower name wins. Raises UsageProblem naming what is wrong.
        """
        rest = dict(data)
        scope = _choice(Scope, "applies_to", rest.pop("applies_to", Scope.OUTSIDE))
        confidence = rest.pop("min_confidence", LIKELY)
        if isinstance(confidence, bool) or not isinstance(confidence, int | float):
            raise UsageProblem(f"privacy: min_confidence is {confidence!r}, not a number")
        if not 0 <= confidence <= 1:
            raise UsageProblem(f"privacy: min_confidence is {confidence}, not from 0 to 1")
        actions: dict[Kind, Action] = {}
        for name in sorted(rest, key=lambda n: (n != "default", n not in GROUPS)):
            action = _choice(Action, name, rest[name])
            actions.update(dict.fromkeys(_kinds(name), action))
        changed = {kind: action for kind, action in actions.items() if action != _DEFAULTS[kind]}
        return cls(changed, scope, float(confidence))

    def data(self) -> dict[str, str | float]:
        """What `parse` reads back: every kind that differs from the default policy."""
        changed: dict[str, str | float] = {
            kind.value: action.value
            for kind, action in self.actions.items()
            if action is not _DEFAULTS[kind]
        }
        return changed | {"applies_to": self.scope.value, "min_confidence": self.min_confidence}


@dataclass(frozen=True)
class Fired:
    """So many findings of a kind, and what the policy does about them."""

    kind: Kind
    count: int
    action: Action


@dataclass(frozen=True)
class Decision:
    """What a policy says of a text. Holds kinds, counts and offsets, never the data."""

    action: Action
    fired: tuple[Fired, ...]
    masked: tuple[Finding, ...]  # what `mask` has to replace before the text goes out

    def record(self) -> dict[str, Any]:
        """For a log or a registry row: the action, and kinds with their counts."""
        fired = [{"kind": f.kind.value, "count": f.count, "action": f.action.value}
                 for f in self.fired]  # fmt: skip
        return {"action": self.action.value, "fired": fired}


def decide(text: str, policy: Policy, outside: bool = True) -> Decision:
    """What `policy` says of sending `text` to a member that is, or is not, outside.

    Kinds that the policy allows are not looked for, so that where one overlaps another the
    watched one has its whole stretch. The action is the strictest of those that fired.
    """
    if not policy.watches(outside):
        return Decision(Action.ALLOW, (), ())
    watched = {kind for kind in Kind if policy.action(kind) is not Action.ALLOW}
    findings = find(text, watched, policy.min_confidence)
    counts = Counter(finding.kind for finding in findings)
    fired = tuple(Fired(kind, counts[kind], policy.action(kind)) for kind in Kind if counts[kind])
    action = max((f.action for f in fired), key=_STRICTNESS.index, default=Action.ALLOW)
    return Decision(action, fired, findings)


def join(decisions: list[Decision]) -> Decision:
    """One decision for a prompt and its attachments: the strictest action, all counts.

    `masked` is empty: offsets are of each text, whose own decision has them."""
    counts: Counter[Kind] = Counter()
    actions: dict[Kind, Action] = {}
    for decision in decisions:
        for one in decision.fired:
            counts[one.kind] += one.count
            actions[one.kind] = one.action
    fired = tuple(Fired(kind, counts[kind], actions[kind]) for kind in Kind if counts[kind])
    action = max((d.action for d in decisions), key=_STRICTNESS.index, default=Action.ALLOW)
    return Decision(action, fired, ())


def _level(action: Action) -> int:
    return _STRICTNESS.index(action)


def _kinds(name: str) -> frozenset[Kind]:
    if name == "default":
        return frozenset(Kind)
    if name in GROUPS:
        return GROUPS[name]
    if name in set(Kind):
        return frozenset({Kind(name)})
    known = ", ".join(["default", *GROUPS, *Kind])
    raise UsageProblem(f"privacy: no kind of data is called {name!r}", f"one of: {known}")


def _choice(choices: type[_E], name: str, value: object) -> _E:
    if isinstance(value, str) and value in set(choices):
        return choices(value)
    known = ", ".join(choices)
    raise UsageProblem(f"privacy: {name} is {value!r}", f"one of: {known}")
