"""A router's description from TOML or JSON. Data only, and nothing in it is believed: unknown
keys, wrong types and sizes are refused with the place that is wrong."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal

from localllm.errors import UsageProblem
from localllm.privacy import Policy
from localllm.route.pool.member import Cost, Member, MemberKind
from localllm.route.pool.plain import read_plain
from localllm.route.pool.spec import Fallback, RouterSpec
from localllm.route.pool.steps import (
    MAX_DOMAINS,
    MAX_EXAMPLES,
    MAX_RULES,
    STEPS,
    Domain,
    DomainsStep,
    Rule,
    RulesStep,
    Step,
)

SCHEMA = 1
MAX_BYTES = 8 << 20
MAX_TEXT = 100_000  # characters of one text
_MAX_LIST = 1000
_KINDS: tuple[MemberKind, ...] = ("model", "endpoint")
_OWN = ("schema", "members", "steps", "fallback", "privacy", "made")


def parse_spec(text: str, where: str) -> tuple[RouterSpec, Mapping[str, Any]]:
    """The description and its table `made` (who made it when; plain data). TOML, or JSON where
    the text begins with a brace. Raises UsageProblem naming `where` and the place."""
    if len(text) > MAX_BYTES:
        raise UsageProblem(f"{where} is larger than {MAX_BYTES} bytes: is this a router?")
    data = read_plain(text, where)
    try:
        return spec_of(data), _made(data)
    except UsageProblem as problem:
        raise UsageProblem(f"{where}: {problem.message}", problem.hint) from None


def spec_of(data: Any) -> RouterSpec:
    """From plain data. Raises UsageProblem."""
    table = _table(data, "the router")
    schema = table.get("schema", SCHEMA)
    if type(schema) is not int or schema != SCHEMA:
        raise UsageProblem(
            f"a router of schema {str(schema)[:20]}, this program reads {SCHEMA}",
            "take the version of localllm that wrote it",
        )
    flat = {key: value for key, value in table.items() if key not in _OWN}
    values = _values(RouterSpec, flat, "the router")
    members = tuple(_member(one, n) for n, one in enumerate(_tables(table, "members"), 1))
    steps = tuple(_step(one, n) for n, one in enumerate(_tables(table, "steps"), 1))
    fallback = _made_of(Fallback, _table(table.get("fallback", {}), "fallback"), "fallback")
    privacy = Policy.parse(_table(table.get("privacy", {}), "privacy"))
    return RouterSpec(members, steps, fallback, privacy, **values)


def _member(data: Mapping[str, Any], number: int) -> Member:
    where = f"member {number}"
    rest = dict(data)
    found: list[tuple[MemberKind, Any]] = [(k, rest.pop(k)) for k in _KINDS if k in rest]
    human = rest.pop("human", False)
    if len(found) + (human is True) != 1 or human not in (True, False):
        raise UsageProblem(f"{where} has one of model, endpoint, and human = true")
    kind, ref = found[0] if found else ("human", "")
    cost = _made_of(Cost, _table(rest.pop("cost", {}), f"{where}: cost"), f"{where}: cost")
    for name in ("kind", "ref"):
        if name in rest:
            raise UsageProblem(f"{where} has an unknown key {name!r}")
    given = {"kind": kind, "ref": ref, **rest}
    return Member(cost=cost, **_values(Member, given, where))


def _step(data: Mapping[str, Any], number: int) -> Step:
    rest = dict(data)
    use = rest.pop("use", None)
    kind = next((one for one in STEPS if one.use == use), None)
    where = f"step {number}"
    if kind is None:
        known = ", ".join(one.use for one in STEPS)
        raise UsageProblem(f"{where}: use is {str(use)[:40]!r}, not one of {known}")
    where = f"{where} ({use})"
    if kind is RulesStep:
        rules = _tables(rest, "rules", MAX_RULES)
        _only(rest, ("rules",), where)
        return RulesStep(tuple(_made_of(Rule, one, f"{where}: rule") for one in rules))
    if kind is DomainsStep:
        domains = _tables(rest, "domains", MAX_DOMAINS)
        made = tuple(_made_of(Domain, one, f"{where}: domain") for one in domains)
        if any(len(one.examples) > MAX_EXAMPLES for one in made):
            raise UsageProblem(f"{where}: a domain has at most {MAX_EXAMPLES} examples")
        flat = {key: value for key, value in rest.items() if key != "domains"}
        return DomainsStep(made, **_values(DomainsStep, flat, where))
    step: Step = _made_of(kind, rest, where)
    return step


def _made_of(kind: type[Any], data: Mapping[str, Any], where: str) -> Any:
    return kind(**_values(kind, data, where))


def _values(kind: type[Any], data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a dataclass from plain data, each of its type."""
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in fields(kind) if not _is_ours(hints[f.name])}
    _only(data, tuple(known), where)
    missing = [
        n for n, f in known.items()
        if f.default is MISSING and f.default_factory is MISSING and n not in data
    ]  # fmt: skip
    if missing:
        raise UsageProblem(f"{where} has no {missing[0]}")
    nested = {
        n: h for n, h in hints.items()
        if n in data and isinstance(data[n], Mapping) and isinstance(h, type) and is_dataclass(h)
    }  # fmt: skip
    found = {n: _made_of(h, data[n], f"{where}: {n}") for n, h in nested.items()}
    return found | {n: _value(hints[n], data[n], f"{where}: {n}") for n in data if n not in nested}


def _is_ours(hint: Any) -> bool:
    """Fields that are read apart: tuples of dataclasses, policies."""
    if hint in (Cost, Fallback, Policy):
        return True
    inner = typing.get_args(hint)[:1]
    return typing.get_origin(hint) is tuple and (
        hasattr(inner[0], "__dataclass_fields__") or typing.get_origin(inner[0]) is types.UnionType
    )


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        kinds = [one for one in inner if one is not type(None)]
        return _value(kinds[0], value, where)
    if origin is Literal:
        if value not in inner:
            raise UsageProblem(f"{where} is {str(value)[:40]!r}, not one of {', '.join(inner)}")
        return value
    if origin is tuple:
        if not isinstance(value, list) or len(value) > _MAX_LIST:
            raise UsageProblem(f"{where} is no list of at most {_MAX_LIST}")
        return tuple(_value(inner[0], one, where) for one in value)
    return _plain(hint, value, where)


def _plain(kind: Any, value: Any, where: str) -> Any:
    if kind is str and isinstance(value, str) and len(value) <= MAX_TEXT:
        return value
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and type(value) is int and abs(value) < 2**53:
        return value
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    raise UsageProblem(f"{where} is {str(value)[:40]!r}, not a {kind.__name__}")


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageProblem(f"{where} is no table")
    return value


def _tables(data: Mapping[str, Any], name: str, most: int = _MAX_LIST) -> list[Mapping[str, Any]]:
    value = data.get(name, [])
    if not isinstance(value, list) or len(value) > most:
        raise UsageProblem(f"{name} is no list of at most {most} tables")
    return [_table(one, f"one of {name}") for one in value]


def _only(data: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise UsageProblem(
            f"{where} has an unknown key {str(unknown[0])[:40]!r}", f"known: {', '.join(known)}"
        )


def _made(data: Mapping[str, Any]) -> Mapping[str, Any]:
    made = data.get("made", {})
    return made if isinstance(made, Mapping) else {}
