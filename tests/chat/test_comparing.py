"""Two answers side by side, on a real pty."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from localllm.errors import UsageProblem
from localllm.finetune.data.voted import read_votes
from localllm.registry import Registry
from localllm.registry.chats import Chats
from localllm.registry.decisions import BOTH_BAD, TIE, Decided, Decisions
from localllm.route.answering.client import open_generator
from localllm.route.answering.comparing import two_of
from localllm.route.deciding.guarding import PrivateData
from localllm.route.making import create
from localllm.route.opening import open_router_named
from localllm.route.pool.member import Member
from localllm.route.pool.spec import RouterSpec
from localllm.route.pool.steps import AlwaysStep, LengthStep
from localllm.route.reporting import report
from localllm.route.voting import votes_of
from tests.chat.test_repl import ask, chat
from tests.route.answering import CLOUD, HI, models, point
from tests.support.openai_server import DONE, OpenAIServer, chunk, stream

pytest.importorskip("pyte")
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")

SMALL, BIG = Member("small", "model", "hi"), Member("big", "model", "loop")
LOOP = "abcabcabcabc"  # what `loop` says in twelve tokens


@pytest.fixture
def mine(registry: Registry, tmp_path: Path) -> Registry:
    """`small` says HI, `big` LOOP; the router itself asks `small`."""
    models(registry, tmp_path / "staged")
    create(registry, "mine", RouterSpec((SMALL, BIG), (LengthStep("small", "big", 1000),)))
    return registry


def kept(registry: Registry) -> Decided:
    return next(one for one in Decisions(registry).of("mine") if one.compared)


@posix
def test_the_better_answer_is_voted_for_before_it_has_a_name(mine: Registry) -> None:
    with chat("router:mine", "--max-tokens", 12, "--plain") as terminal:
        terminal.until_ready()
        ask(terminal, "/vote a")
        assert "nothing to vote on" in terminal.text()
        ask(terminal, "/compare")
        assert "nothing was asked yet" in terminal.text()
        ask(terminal, "/compare hello")
        text = terminal.text()
        assert text.index("--- A ---") < text.index("--- B ---") < text.index("which is better?")
        hi_first = text.index(HI) < text.index(LOOP)
        order = ["small", "big"] if hi_first else ["big", "small"]
        said = text[text.index("--- A ---") :]
        assert "small" not in said and "big" not in said
        assert kept(mine).votes == () and kept(mine).member == ""
        ask(terminal, "/vote c")
        assert "a vote is one of a, b, tie, both-bad" in terminal.text()
        ask(terminal, f"/vote {'a' if hi_first else 'b'}")
        assert f"A was {order[0]}, B was {order[1]}; small was better" in terminal.text()
        ask(terminal, "/vote a")
        assert terminal.text().count("nothing to vote on") == 2
        terminal.send("\x04")
        assert terminal.finish() == 0
    found = kept(mine)
    assert (list(found.compared), found.member, found.prompt) == (order, "small", "hello")
    assert found.data["answers"] == {"small": HI, "big": LOOP}
    assert [v.verdict for v in found.votes] == ["small"]
    # what is learned of it: the weak one was better, and its answer is one to be tuned on
    votes = votes_of([found], "small", "big")
    assert (votes.contrast.weak[0], votes.contrast.strong[0]) == (1.0, 0.0)
    (row,) = read_votes(mine)
    assert [m.content for m in row.messages] == ["hello", HI]  # type: ignore[union-attr]
    (talk,) = Chats.of(mine).list()
    assert [m.content for m in Chats.of(mine).messages(talk.id)] == ["hello", HI]
    told = report(mine, open_router_named(mine, "mine"), since=0.0)
    assert (told.total.n, told.total.n_compared) == (0, 1)
    assert told.total.preferred == {"small": 1}


@posix
def test_the_last_question_again_and_what_is_no_answer(mine: Registry) -> None:
    with chat("router:mine", "--max-tokens", 12, "--plain") as terminal:
        terminal.until_ready()
        ask(terminal, "hello")
        ask(terminal, "/compare")
        ask(terminal, "/vote both bad")
        assert "neither was good" in terminal.text()
        ask(terminal, "/compare")
        text = terminal.text()
        text = text[text.rindex("--- A ---") :]
        ask(terminal, f"/vote {'a' if text.index(LOOP) < text.index('--- B ---') else 'b'}")
        assert "big was better" in terminal.text()
        terminal.send("\x04")
        assert terminal.finish() == 0
    (talk,) = Chats.of(mine).list()
    assert [m.content for m in Chats.of(mine).messages(talk.id)] == ["hello", LOOP]
    verdicts = [v.verdict for one in Decisions(mine).of("mine") for v in one.votes]
    assert verdicts == ["big", BOTH_BAD]


@posix
def test_ctrl_c_gives_it_up_and_a_plain_model_answers_alone(mine: Registry) -> None:
    with chat("router:mine", "--plain") as terminal:
        terminal.until_ready()
        terminal.send("/compare hello\r")
        terminal.until("abcabcabc")
        terminal.interrupt()
        terminal.until("stopped")
        terminal.until_ready()
        ask(terminal, "/vote a")
        assert "nothing to vote on" in terminal.text()
        ask(terminal, "/model hi")
        ask(terminal, "/compare hello")
        assert "hi answers alone" in terminal.text().replace("\n", " ")
        terminal.send("\x04")
        assert terminal.finish() == 0
    assert Chats.of(mine).list() == ()


def test_what_may_not_leave_is_not_compared(registry: Registry, tmp_path: Path) -> None:
    from localllm.endpoints import Wanted
    from localllm.generation import Message

    models(registry, tmp_path / "staged")
    said = stream(chunk("to <EMAIL_1>"), chunk(finish="stop"), DONE)
    with OpenAIServer(said) as server:
        point(registry, server)
        create(registry, "mine", RouterSpec((Member("small", "model", "hi"), CLOUD),
                                            (AlwaysStep("small"),)))  # fmt: skip
        with open_generator(registry, "mine", n_ctx=256) as router:

            def asked(text: str) -> Wanted:
                return Wanted(messages=(Message("user", text),))

            with pytest.raises(PrivateData, match="cloud may not see"):
                router.compare(asked("my card is 4242 4242 4242 4242"))
            assert server.asked == []
            sides = router.compare(asked("write to taro@corp-mail.jp"))
            answers = [one.text() for one in sides.streams]
            sides.end()
            sides.end()
            assert sorted(answers) == sorted([HI, "to taro@corp-mail.jp"])
            assert b"taro@" not in server.asked[0].body
            assert sides.vote("tie", (answers[0], answers[1])).preferred is None
    found = kept(registry)
    assert "taro@" not in f"{found}" and "answers" not in found.data
    assert [v.verdict for v in found.votes] == [TIE]


def test_two_who_can_be_compared() -> None:
    me = Member("me", "human")
    many = (SMALL, Member("middle", "model", "x"), BIG, me)
    assert two_of(RouterSpec(many, (AlwaysStep("me"),))) == ("small", "big")
    assert two_of(RouterSpec(many, (LengthStep("middle", "big", 9),))) == ("middle", "big")
    assert two_of(RouterSpec(many, (LengthStep("small", "me", 9),))) == ("small", "big")
    for members in ((SMALL, me), (me,)):
        with pytest.raises(UsageProblem, match="two members are compared"):
            two_of(RouterSpec(members, (AlwaysStep("me"),)))
