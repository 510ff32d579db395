"""What people said, and what is learned from it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from localllm.errors import UsageProblem
from localllm.registry import Registry
from localllm.registry.decisions import Decided, Decisions, Verdict
from localllm.registry.routers import Routers
from localllm.route.contrast import Contrast
from localllm.route.making import Wish, create, make_spec
from localllm.route.opening import OpenRouter, open_router_named
from localllm.route.reporting import report, stability
from localllm.route.retraining import held_up_by, retrain, roll_back
from localllm.route.teaching import Material, teach
from localllm.route.voting import split_votes, votes_of
from tests.route.known import known
from tests.serve.conftest import add


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Path:
    folder = tmp_path_factory.mktemp("voted")
    registry = Registry(folder / "home")
    shutil.copyfile(tiny_gguf, folder / "staged.gguf")
    add(registry, "tiny", folder / "staged.gguf", architecture="llama")
    spec = make_spec(Wish(("small=tiny", "big=tiny"), costs=("big=100/100",)))
    kept = create(registry, "mine", spec)
    truth = known(120)
    teach(registry, kept.current, spec, Material(truth, (), ()))
    kept = create(registry, "poor", spec)  # its labels belong to other prompts
    weak = np.random.default_rng(0).permutation(truth.weak)
    shuffled = Contrast(truth.prompts, weak, truth.strong, truth.domains, truth.benchmarks)
    teach(registry, kept.current, spec, Material(shuffled, (), ()))
    return folder / "home"


@pytest.fixture
def mine(trained: Path, home: Path) -> Registry:
    shutil.copytree(trained, home)
    return Registry(home)


def router(registry: Registry, name: str = "mine") -> OpenRouter:
    return open_router_named(registry, name, members=False)


def decided(n: int, member: str, *votes: tuple[str, str]) -> Decided:
    given = tuple(Verdict(source, verdict, 0.0) for source, verdict in votes)
    return Decided(n, "mine", 1, 0.0, member, member, None, None, None, f"prompt {n}", {}, given)


@pytest.mark.parametrize(("member", "verdict", "means"), [
    ("weak", "good", (1, 1)), ("weak", "bad", (0, 1)), ("strong", "good", None),
    ("strong", "bad", None), ("weak", "strong", (0, 1)), ("strong", "weak", (1, 0)),
    ("weak", "human", (0, 1)), ("strong", "human", None), ("weak", "weak", (1, 1)),
])  # fmt: skip
def test_what_a_vote_says_of_the_pair(
    member: str, verdict: str, means: tuple[int, int] | None
) -> None:
    found = votes_of([decided(1, member, ("a", verdict))], "weak", "strong")
    rows = list(zip(found.contrast.weak, found.contrast.strong, strict=True))
    assert rows == ([] if means is None else [means])
    assert found.n_left_out == (means is None)


def test_a_flood_from_one_source_is_a_quarter_at_most() -> None:
    flood = [decided(n, "weak", ("http 10.0.0.9", "bad")) for n in range(1000)]
    honest = [decided(1000 + n, "weak", (f"http 10.0.1.{n}", "good")) for n in range(90)]
    found = votes_of([*flood, *honest], "weak", "strong")
    needed = int((found.contrast.gap > 0).sum())
    assert needed == 30  # a third of the others is a quarter of all
    assert found.n_capped == 970
    assert len(found.contrast) == 120
    mine = [decided(n, "weak", ("owner", "bad")) for n in range(1000)]
    assert len(votes_of([*mine, *honest], "weak", "strong").contrast) == 1090


def test_a_flood_is_capped_whoever_else_votes() -> None:
    def flood(source: str, first: int) -> list[Decided]:
        return [decided(first + n, "weak", (source, "bad")) for n in range(1000)]

    alone = votes_of(flood("http a", 0), "weak", "strong")
    assert (len(alone.contrast), alone.n_capped) == (20, 980)
    two = votes_of([*flood("http a", 0), *flood("http b", 1000)], "weak", "strong")
    assert len(two.contrast) == 40  # neither gives the other a larger share
    four = [one for k in range(4) for one in flood(f"http {k}", 1000 * k)]
    assert votes_of(four, "weak", "strong").n_capped == 0  # a quarter each


@pytest.mark.parametrize(("verdict", "means"), [
    ("weak", (1, 1)), ("strong", None), ("human", None), ("good", None),
])  # fmt: skip
def test_a_draft_that_was_sent_is_as_good_as_the_persons_answer(
    verdict: str, means: tuple[int, int] | None
) -> None:
    for weak, strong in (("weak", "human"), ("weak", "strong")):
        found = votes_of([decided(1, "human", ("owner inbox", verdict))], weak, strong)
        rows = list(zip(found.contrast.weak, found.contrast.strong, strict=True))
        assert rows == ([] if means is None else [means])


def test_a_prompt_is_always_on_the_same_side() -> None:
    _, judge = split_votes(known(500))
    assert 60 < len(judge) < 140
    again = split_votes(known(250))[1]
    assert set(again.prompts) == {p for p in judge.prompts if p in set(known(250).prompts)}


def vote_all(registry: Registry, name: str, *, right: bool) -> None:
    """Weak answered everything, and is judged by the truth of `known`, or by its opposite."""
    contrast = known(150, seed=5)
    decisions = Decisions(registry)
    for prompt, needed in zip(contrast.prompts, contrast.gap > 0, strict=True):
        number = decisions.record(name, 2, member="small", chosen="small", prompt=prompt)
        decisions.vote(number, "bad" if bool(needed) is right else "good", "owner")


def test_retraining_replaces_a_router_that_got_better(mine: Registry) -> None:
    vote_all(mine, "poor", right=True)
    done = retrain(mine, router(mine, "poor"))
    assert done.replaced and done.version == 3, done
    assert done.loss_after < done.loss_before
    assert done.n_judged + done.n_trained <= 150 + 120
    assert Routers(mine).find("poor").current.made_by == "retrain"
    assert roll_back(mine, "poor", None) == (3, 2)


def test_a_threshold_that_was_given_is_kept(mine: Registry) -> None:
    spec = make_spec(Wish(("small=tiny", "big=tiny"), threshold=0.9))
    create(mine, "strict", spec)
    for number in (2, 3):  # however often it is trained
        done = teach(mine, Routers(mine).find("strict").current, spec,
                     Material(known(120), (), ()))  # fmt: skip
        assert (done.version, done.threshold) == (number, 0.9)
        assert done.strong_share < 0.2
        spec = router(mine, "strict").spec
    assert spec.threshold == 0.9


def test_a_router_that_did_not_get_better_stays(mine: Registry) -> None:
    """It knew already what the votes say."""
    vote_all(mine, "mine", right=True)
    done = retrain(mine, router(mine))
    assert (done.replaced, done.version) == (False, 2), done
    assert Routers(mine).find("mine").version == 2
    forced = retrain(mine, router(mine), force=True)
    assert (forced.replaced, forced.version) == (True, 3)


def test_a_flood_cannot_hold_a_router_up_that_is_worse_for_the_others() -> None:
    """By a quarter of the votes, on prompts of its own, where the new one gains much."""
    honest, flood = [f"q{i}" for i in range(30)], [f"hi {i}" for i in range(10)]
    prompts = (*honest, *flood)
    before, gains = np.full(40, 0.3), np.array([0.0] * 30 + [0.3] * 10)
    worse = np.array([0.02] * 30 + [0.0] * 10)
    only_by = {"http 6.6.6.6": frozenset(flood)}
    assert held_up_by(only_by, prompts, (before, before - gains + worse)) == "http 6.6.6.6"
    assert held_up_by(only_by, prompts, (before, before - gains - worse)) is None
    assert held_up_by({}, prompts, (before, before - gains + worse)) is None
    # where there is hardly anybody else, there is nobody else to ask
    few = (before[25:], (before - gains + worse)[25:])
    assert held_up_by(only_by, prompts[25:], few) is None


def test_whose_votes_stand_alone() -> None:
    both = [decided(1, "weak", ("http a", "good"), ("http b", "good"))]
    alone = [decided(i, "weak", (source, "bad")) for i, source in ((2, "http a"), (3, "owner"))]
    found = votes_of([*both, *alone], "weak", "strong")
    assert found.only_by == {"http a": frozenset({"prompt 2"})}


def test_too_few_votes_are_said(mine: Registry) -> None:
    with pytest.raises(UsageProblem, match="0 votes leave 0 prompts"):
        retrain(mine, router(mine))


def tokens(n_prompt: int, n_answer: int, **more: object) -> dict[str, object]:
    return {"prompt_tokens": n_prompt, "completion_tokens": n_answer, **more}


def test_a_cascade_that_went_on_cost_more_than_strong_alone(mine: Registry) -> None:
    both = 0.3 + 140 * 100 / 1e6  # the weak answer in vain, then the strong one
    Decisions(mine).record("mine", 2, member="big", chosen="small", cost=both,
                           data=tokens(100, 40, escalated=True))  # fmt: skip
    total = report(mine, router(mine), since=0).total
    assert total.saved == pytest.approx(-0.3)


def test_nothing_is_said_to_be_saved_where_the_tokens_are_not_known(mine: Registry) -> None:
    Decisions(mine).record("mine", 2, member="small", chosen="small", cost=0.0, prompt="x" * 400)
    total = report(mine, router(mine), since=0).total
    assert (total.cost, total.saved) == (0.0, None)


def test_a_report_by_hand(mine: Registry) -> None:
    decisions = Decisions(mine)
    prompt = "x" * 400  # 100 tokens
    for member, cost in (("small", 0.0), ("small", 0.0), ("big", 0.5)):
        number = decisions.record("mine", 2, member=member, chosen="small", cost=cost,
                                  prompt=prompt, data=tokens(100, 40))  # fmt: skip
        decisions.vote(number, "good" if member == "small" else "bad", "owner")
    failed = decisions.record("mine", 2, member="", chosen="big")
    decisions.finish(failed, member="", cost=None, data={"failures": [["big", "x", "y"]]})
    found = report(mine, router(mine), since=time.time() - 60)
    total = found.total
    assert (total.n, total.members, total.n_unanswered) == (4, {"small": 2, "big": 1}, 1)
    assert total.strong_share == pytest.approx(1 / 3)
    assert total.cost == 0.5
    # each small one would have cost its (100 + 40) tokens at 100 a million
    assert total.saved == pytest.approx(2 * 140 * 100 / 1e6)
    assert total.quality == pytest.approx(2 / 3)
    assert len(found.periods) == 1 and found.drift is None


def test_votes_that_name_a_member_are_votes_in_the_report(mine: Registry) -> None:
    decisions = Decisions(mine)
    for verdict, source in (("big", "owner"), ("small", "owner"), ("good", "owner"),
                            ("bad", "api"), ("small", "owner inbox")):  # fmt: skip
        number = decisions.record("mine", 2, member="small", chosen="small", prompt="x")
        decisions.vote(number, verdict, source)
    total = report(mine, router(mine), since=0).total
    # the inbox's is of a draft, and not of the answer
    assert (total.n_good, total.n_bad, total.quality) == (2, 2, 0.5)


def test_drift_is_seen(mine: Registry) -> None:
    decisions = Decisions(mine)
    for text in known(120).prompts:
        decisions.record("mine", 2, member="small", chosen="small", prompt=text)
    same = report(mine, router(mine), since=0).drift
    assert same is not None and same.length < 0.1 and same.script < 0.01
    for n in range(100):
        decisions.record("mine", 2, member="small", chosen="small", prompt=f"これは質問です{n}" * 9)
    moved = report(mine, router(mine), since=0).drift
    assert moved is not None and moved.verdict == "shifted" and moved.script > 0.25


def test_the_index_by_hand() -> None:
    expected = np.arange(1000.0)
    assert stability(expected, expected) == pytest.approx(0.0)
    low = expected[:500]  # one half of the deciles has everything
    by_hand = 5 * (0.2 - 0.1) * np.log(2) + 5 * (0.001 - 0.1) * np.log(0.01)
    assert stability(expected, low) == pytest.approx(by_hand, rel=1e-6)
