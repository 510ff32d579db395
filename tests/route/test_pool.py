"""Routers as data: what may be written, what is refused, and that it reads back the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from localllm.errors import UsageProblem
from localllm.privacy import Policy
from localllm.route.making import Wish, make_spec
from localllm.route.pool.member import Cost, Member, cost_of, parse_member
from localllm.route.pool.reading import parse_spec
from localllm.route.pool.spec import Fallback, RouterSpec
from localllm.route.pool.steps import (
    AlwaysStep,
    CascadeStep,
    Combiner,
    Domain,
    DomainsStep,
    LengthStep,
    PredictorStep,
    RandomStep,
    Rule,
    RulesStep,
)
from localllm.route.pool.writing import as_data, as_toml

SMALL, BIG = Member("small", "model", "org/small:Q4_0"), Member("big", "endpoint", "cloud/big")
FULL = RouterSpec(
    (
        Member("small", "model", "org/x", ("lora:0.5",), Cost(None, None, 0.02, 1.5)),
        Member("big", "endpoint", "gpt", cost=Cost(1.0, 2.5), first_token_s=9.0, outside=True),
        Member("me", "human", draft="small"),
    ),
    (
        RulesStep((
            Rule("me", "odd \"名\"", r"\bcontract\b", ("a", "b\n\x7f"), ("japanese",), 1, 9, True,
                 False, True, "22:00-06:00", ("sat", "sun"), 2.5, "month"),
        )),
        DomainsStep((Domain("sql", "big", ("select \\ '", "join\ttwo tables")),), 0.3, "embedding"),
        CascadeStep("small", "big", 0.4, ("logprobs", "agreement"), 3, 8, Combiner(1.0, 2, 3, 4)),
    ),
    Fallback(("big", "me"), "fallback"),
    Policy.parse({"email": "allow", "applies_to": "all"}),
    "joules", 99, 12.5, False, "for me",
)  # fmt: skip


def least(**more: Any) -> dict[str, Any]:
    members = [{"name": "a", "model": "m"}, {"name": "b", "model": "n"}]
    return {"members": members, "steps": [{"use": "always", "to": "a"}], **more}


@pytest.mark.parametrize("step", [
    PredictorStep("small", "big", 0.25), CascadeStep("small", "big"), RandomStep("small", "big"),
    LengthStep("small", "big", 7), AlwaysStep("big"),
])  # fmt: skip
def test_every_strategy_reads_back(step: Any) -> None:
    spec = RouterSpec((SMALL, BIG), (step,))
    assert parse_spec(as_toml(spec), "x") == (spec, {})
    assert parse_spec(json.dumps(as_data(spec)), "x")[0] == spec


def test_everything_at_once_reads_back() -> None:
    made = {"by": "train", "figures": {"apgr": 0.5, "n": 3}, "data": ["a b.jsonl"]}
    assert parse_spec(as_toml(FULL, made), "x") == (FULL, made)


@pytest.mark.parametrize(("change", "said"), [
    ({"members": []}, "without members"),
    ({"steps": []}, "last step"),
    ({"schema": 9}, "schema 9"),
    ({"schema": True}, "schema True"),
    ({"surprise": 1}, "unknown key 'surprise'"),
    ({"steps": [{"use": "exec", "to": "a"}]}, "not one of rules"),
    ({"steps": [{"use": "always", "to": "c"}]}, "'c', which is no member"),
    ({"steps": [{"use": "always", "to": "a"}] * 2}, "nothing can come after"),
    ({"steps": [{"use": "rules", "rules": []}]}, "last step"),
    ({"steps": [{"use": "predictor", "weak": "a", "strong": "a"}]}, "same member"),
    ({"steps": [{"use": "predictor", "weak": "a", "strong": "b", "threshold": 1.5}]}, "0 to 1"),
    ({"steps": [{"use": "predictor", "weak": "a", "strong": "b", "threshold": "1"}]}, "float"),
    ({"steps": [{"use": "cascade", "weak": "a", "strong": "b", "samples": 99}]}, "1 to 16"),
    ({"steps": [{"use": "cascade", "weak": "a", "strong": "b", "signals": ["x"]}]}, "not one of"),
    ({"members": [{"name": "a", "model": "m"}] * 2}, "two members are called a"),
    ({"members": [{"name": "a", "model": "m", "endpoint": "e"}]}, "one of model, endpoint"),
    ({"members": [{"name": "a/b", "model": "m"}]}, "cannot be a member's name"),
    ({"members": [{"name": "a", "model": "m", "kind": "human"}]}, "unknown key 'kind'"),
    ({"members": [{"name": "a", "model": "m", "cost": {"input_per_mtok": -1}}]}, "from 0 on"),
    ({"members": "a"}, "no list"),
    ({"members": [3]}, "no table"),
    ({"privacy": {"email": "shout"}}, "privacy: email"),
    ({"fallback": {"order": ["z"]}}, "fallback names 'z'"),
    ({"answer_tokens": 2**60}, "not a int"),
    ({"description": {"a": 1}}, "not a str"),
    ({"members": [{"name": {"a": 1}, "model": "m"}]}, "not a str"),
    ({"members": [{"name": "a", "model": "m", "cost": {"input_per_mtok": {}}}]}, "not a float"),
    ({"description": "x" * 200_000}, "not a str"),
])  # fmt: skip
def test_what_is_wrong_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        parse_spec(json.dumps(least(**change)), "r.toml")
    assert caught.value.message.startswith("r.toml: ")
    assert said in caught.value.message


@pytest.mark.parametrize("text", ["[", "{", "a = ", "members = 1979-05-27", "\x00", "[" * 5000])
def test_what_is_no_toml(text: str) -> None:
    with pytest.raises(UsageProblem, match=r"r\.toml"):
        parse_spec(text, "r.toml")


@pytest.mark.parametrize("number", ["1" * 400, "0x" + "f" * 10_000, "-1" + "0" * 30])
def test_numbers_beyond_all_sense_are_refused_wherever_they_stand(number: str) -> None:
    toml = '[[members]]\nname = "a"\nmodel = "m"\n[[steps]]\nuse = "always"\nto = "a"\n'
    for text in (
        f"schema = {number}\n{toml}",
        f"human_wait_s = {number}\n{toml}",
        f"{toml}[privacy]\nmin_confidence = {number}",
        f"{toml}[made]\nx = [{{y = {number}}}]",
    ):
        with pytest.raises(UsageProblem, match=r"r\.toml is no router: a number"):
            parse_spec(text, "r.toml")


@pytest.mark.parametrize(
    "line", ["{} = 1", "[{}]", "[[ {} ]]", "x = {{ {} = 1 }}", "x = [{{y=1,{}=1}}]"]
)
def test_a_key_of_many_parts_takes_no_time_and_no_memory(line: str) -> None:
    key = " . ".join(["a", '"b"', "'c'"] * 20_000)  # tomllib would take gigabytes
    with pytest.raises(UsageProblem, match="16 parts"):
        parse_spec(line.format(key), "r.toml")


def test_members_as_typed() -> None:
    assert parse_member("hf:org/repo:Q4_K_M") == Member("repo", "model", "hf:org/repo:Q4_K_M")
    assert parse_member("s=./dir/a b.gguf+l:0.5+m") == Member(
        "s", "model", "./dir/a b.gguf", ("l:0.5", "m")
    )
    assert parse_member("endpoint:cloud/gpt") == Member("gpt", "endpoint", "cloud/gpt")
    assert parse_member("human").kind == "human"
    for text in ("", "x=", "a b=m"):
        with pytest.raises(UsageProblem):
            parse_member(text)


def test_costs_by_hand() -> None:
    paid = Member("p", "endpoint", "e", cost=Cost(2.0, 10.0))
    assert cost_of(paid, "money", 1_000_000, 500_000) == pytest.approx(2 + 5)
    local = Member("l", "model", "m", cost=Cost(seconds_per_token=0.02))
    assert cost_of(local, "money", 1000, 1000) == 0
    assert cost_of(local, "seconds", 1000, 50) == pytest.approx(1.0)
    assert cost_of(local, "joules", 1000, 50) != cost_of(local, "joules", 1000, 50)  # NaN: unknown


def test_two_members_of_one_name_are_both_named() -> None:
    with pytest.raises(UsageProblem, match="two members are called small: hi and bye") as found:
        make_spec(Wish(("small=hi", "small=bye")))
    assert found.value.hint == "--member small=hi --member small-2=bye"
    with pytest.raises(UsageProblem, match="two members are called m: a/m and b/m"):
        make_spec(Wish(("a/m", "b/m")))


@pytest.mark.parametrize("name", ["red \x1b[31m", "two\nlines", "x" * 101, "bell\x07"])
def test_names_from_files_do_not_steer_a_terminal(name: str) -> None:
    with pytest.raises(UsageProblem, match="is no name") as found:
        Rule("small", name=name)
    assert found.value.message.isprintable()
    with pytest.raises(UsageProblem, match="is no name"):
        DomainsStep((Domain(name, "small", ("example",)),))
    assert Rule("small", name="契約書と領収書").name
