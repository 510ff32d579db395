"""Which member, and why: rules, domains, thresholds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from localllm.chat.files import as_message
from localllm.errors import UsageProblem
from localllm.generation import Message
from localllm.route.deciding.asked import Asked
from localllm.route.deciding.decider import Decider
from localllm.route.deciding.rules import begin_of, first_rule
from localllm.route.pool.member import Member
from localllm.route.pool.reading import parse_spec
from localllm.route.pool.spec import RouterSpec
from localllm.route.pool.steps import (
    AlwaysStep,
    Domain,
    DomainsStep,
    LengthStep,
    PredictorStep,
    RandomStep,
    Rule,
    RulesStep,
)
from localllm.route.router import Router
from localllm.route.training import train_router
from tests.route.known import known

A, B = Member("a", "model", "m"), Member("b", "model", "n")
NOON = time.mktime((2026, 3, 2, 12, 30, 0, 0, 0, -1))  # a Monday


NDA = "\n\nnda.txt:\n```\nNDA\n```"  # as `chat` attaches a file
OFFICE = Path(__file__).parents[2] / "recipes" / "route_office.toml"


def nothing(since: float) -> float:
    return 0.0


def holds(prompt: str = "hello", *, asked: dict[str, Any] | None = None, **rule: Any) -> bool:
    question = Asked(**{"prompt": prompt, "chars": len(prompt), "at": NOON, **(asked or {})})
    return first_rule((Rule("a", **rule),), question, nothing) is not None


@pytest.mark.parametrize(("rule", "prompt", "asked", "is_so"), [
    ({}, "x", {}, True),
    ({"pattern": r"^sum\b"}, "Sum of it", {}, True),
    ({"pattern": r"^sum\b"}, "summary", {}, False),
    ({"words": ("law",)}, "The LAW, please", {}, True),
    ({"words": ("law",)}, "a flawed thing", {}, False),
    ({"words": ("法律",)}, "この法律について", {}, True),
    ({"languages": ("japanese",)}, "これは日本語です", {}, True),
    ({"languages": ("japanese",)}, "this is not", {}, False),
    ({"languages": ("German",)}, "Wie geht es dir heute?", {}, True),
    ({"languages": ("german",)}, "How are you today?", {}, False),
    ({"languages": ("french", "spanish")}, "¿Cuál es la capital de España?", {}, True),
    ({"languages": ("latin",)}, "Wie geht es dir heute?", {}, True),
    ({"languages": ("english",)}, "x = 12 + 3", {}, False),  # nothing says so
    ({"languages": ("korean",)}, "안녕하세요", {}, True),
    ({"min_chars": 5}, "hell", {}, False),
    ({"min_chars": 5, "max_chars": 5}, "hello", {}, True),
    ({"tools": True}, "x", {"tools": True}, True),
    ({"tools": False}, "x", {"tools": True}, False),
    ({"images": True}, "x", {"images": 2}, True),
    ({"attachments": True}, "x", {"images": 1}, True),
    ({"attachments": True}, "x", {}, False),
    ({"attachments": False}, "x", {}, True),
    ({"attachments": True}, "x", {"files": 1}, True),
    ({"pattern": r"end$"}, "x" * 30_000 + "the end", {}, True),  # its last character is read
    ({"hours": "12:00-13:00"}, "x", {}, True),
    ({"hours": "12:31-13:00"}, "x", {}, False),
    ({"hours": "22:00-12:31"}, "x", {}, True),  # through midnight
    ({"days": ("mon",)}, "x", {}, True),
    ({"days": ("sat", "sun")}, "x", {}, False),
    ({"words": ("law",), "tools": True}, "law", {}, False),  # all must hold
])  # fmt: skip
def test_conditions(rule: dict[str, Any], prompt: str, asked: dict[str, Any], is_so: bool) -> None:
    assert holds(prompt, asked=asked, **rule) is is_so


def test_a_budget_counts_from_the_beginning_of_its_period() -> None:
    seen: list[float] = []

    def spent(since: float) -> float:
        seen.append(since)
        return 3.0

    asked = Asked("x", 1, at=NOON)
    assert first_rule((Rule("a", spent_over=3.0, per="day"),), asked, spent)
    assert not first_rule((Rule("a", spent_over=3.1, per="hour"),), asked, spent)
    assert seen == [NOON - 12.5 * 3600, NOON - 1800]
    assert time.localtime(begin_of("month", NOON))[2:5] == (1, 0, 0)


def test_a_pattern_made_to_take_for_ever_is_stopped() -> None:
    began = time.monotonic()
    assert not holds("a" * 5000 + "!", pattern=r"(a|aa)+$")
    assert not holds("x" * 100_000, pattern=r"(.*)*(.*)*y$")
    assert time.monotonic() - began < 10


def test_patterns_that_were_stopped_are_told_of_and_all_of_them_take_half_a_second() -> None:
    bad = tuple(Rule("b", name=f"bad {n}", pattern=r"(a|aa)+$") for n in range(200))
    last = Rule("b", name="long", min_chars=1000)
    prompt = "a" * 5000 + "!"
    began = time.monotonic()
    for more, to in (((), "a"), ((last,), "b")):
        spec = RouterSpec((A, B), (RulesStep((*bad[:150], *more)), AlwaysStep("a")))
        choice = Decider(spec, None).decide(Asked.of_text(prompt))
        assert choice.member == to
        assert "stopped, for it took too long: the pattern of bad 0, bad 1" in choice.steps[0].why
        assert len(choice.steps[0].why) < 300
    assert time.monotonic() - began < 10  # 150 times a tenth of a second are 15, and that twice


def test_a_pattern_that_is_none_is_refused_when_the_router_is_opened() -> None:
    spec = RouterSpec((A, B), (RulesStep((Rule("b", pattern="("),)), AlwaysStep("a")))
    with pytest.raises(UsageProblem, match="is no pattern"):
        Decider(spec, None)


DOMAINS = DomainsStep(
    (
        Domain("sql", "a", ("select rows from a table", "join two tables by a key")),
        Domain("cooking", "b", ("how long to boil an egg", "a recipe for bread dough")),
    ),
    abstain=0.3,
)


def test_domains_choose_or_abstain() -> None:
    decider = Decider(RouterSpec((A, B), (DOMAINS, AlwaysStep("a"))), None)
    assert decider.decide(Asked.of_text("join these tables by their key")).member == "a"
    assert decider.decide(Asked.of_text("recipe for an egg in dough")).member == "b"
    away = decider.decide(Asked.of_text("who won the world cup?"))
    assert [s.use for s in away.steps] == ["domains", "always"]
    assert away.steps[0].to is None
    far = decider.decide(Asked.of_text("質問"))  # not one known word
    assert far.steps[0].to is None


def test_domains_by_embedding() -> None:
    pytest.importorskip("wordllama")
    from localllm.route.embedders import static_embedder

    step = DomainsStep(DOMAINS.domains, 0.0, "embedding")
    decider = Decider(RouterSpec((A, B), (step, AlwaysStep("a"))), None, embedder=static_embedder)
    # not one word of the examples
    assert decider.decide(Asked.of_text("baking cakes, frying onions")).member == "b"


@pytest.fixture(scope="module")
def router() -> Router:
    return train_router(known(200), "a", "b").router


def test_the_threshold_of_the_name_counts(router: Router) -> None:
    decider = Decider(RouterSpec((A, B), (PredictorStep("a", "b", 0.5),)), router)
    asked = Asked.of_text("theorem proof lemma")
    found = decider.decide(asked)
    assert found.probability == router.decide(asked.prompt, 0.5).probability
    assert decider.decide(asked, 0.0).member == "b"
    assert decider.decide(asked, 1.0).member == "a"
    for wrong in (1.5, -1.0, float("nan")):
        with pytest.raises(UsageProblem, match="threshold"):
            decider.decide(asked, wrong)
    with pytest.raises(UsageProblem, match="no threshold"):
        Decider(RouterSpec((A, B), (AlwaysStep("a"),)), None).decide(asked, 0.5)


@pytest.mark.parametrize(("name", "text", "n"), [
    ("notes.txt", "a contract", 1), ("契約書 2026.md", "```\nb.py:\n```\ninside", 1),
    ("a b.py", "x = 1", 1),
])  # fmt: skip
def test_files_are_known_by_what_chat_makes_of_them(name: str, text: str, n: int) -> None:
    part = as_message(Path(name), text)
    for said in (f"{part}\n\nwhat is this?", part, f"first\n\n{part}"):
        assert Asked.of_text(said).files == n
    assert Asked.of_text(f"{part}\n\n{as_message(Path('b.c'), 'int x;')}\n\nboth").files == n + 1
    before = [Message("user", part), Message("assistant", "a.txt:\n```\nx\n```")]
    assert Asked.of([*before, Message("user", "and now?")]).files == n


@pytest.mark.parametrize("said", [
    "like this:\n```\nx = 1\n```", "see http://x.org/a.py:\n```\nx\n```", "a.txt: ```x```",
])  # fmt: skip
def test_what_is_no_file(said: str) -> None:
    assert Asked.of_text(said).files == 0


def test_a_router_without_training_is_refused() -> None:
    with pytest.raises(UsageProblem, match="not trained") as caught:
        Decider(RouterSpec((A, B), (PredictorStep("a", "b"),)), None, name="mine")
    assert caught.value.hint == "localllm route train mine --data FILE"


def test_baselines() -> None:
    short = Decider(RouterSpec((A, B), (LengthStep("a", "b", 10),)), None)
    assert [short.decide(Asked.of_text("x" * n)).member for n in (9, 10)] == ["a", "b"]
    drawn = Decider(RouterSpec((A, B), (RandomStep("a", "b", 0.3),)), None)
    members = [drawn.decide(Asked.of_text(f"question {i}")).member for i in range(1000)]
    assert 250 < members.count("b") < 350
    assert drawn.decide(Asked.of_text("question 1")).member == members[1]


@pytest.mark.parametrize(("prompt", "rule"), [
    (f"Is this contract binding?{NDA}", "contracts"), (f"この契約書を読んで{NDA}", "contracts"),
    ("これは日本語の質問です", "Japanese"), ("word " * 5000, "long"),
])  # fmt: skip
def test_every_rule_of_the_recipe_can_fire(prompt: str, rule: str) -> None:
    spec, _ = parse_spec(OFFICE.read_text(encoding="utf-8"), "office")
    choice = Decider(spec, None).decide(Asked.of_text(prompt))
    assert choice.why.startswith(f"rules: {rule}: ")


def test_the_recipe_has_no_rule_that_was_not_tried() -> None:
    spec, _ = parse_spec(OFFICE.read_text(encoding="utf-8"), "office")
    (rules,) = (step.rules for step in spec.steps if isinstance(step, RulesStep))
    assert [rule.name for rule in rules] == ["contracts", "Japanese", "long"]


def test_prompts_that_are_odd(router: Router) -> None:
    decider = Decider(RouterSpec((A, B), (DOMAINS, PredictorStep("a", "b"))), router)
    for prompt in ("x" * 2**20, "\x00", "\ud800", "ไทย" * 1000, "🙂", "' OR 1=1 --"):
        found = decider.decide(Asked.of_text(prompt))
        assert found.member in ("a", "b")
    with pytest.raises(UsageProblem, match="empty"):
        Asked.of_text(" \n")
    with pytest.raises(UsageProblem, match="empty"):
        Asked.of([Message("system", "only this")])
    assert Asked.of([Message("user", "", {"images": (b"x",)})]).images == 1
