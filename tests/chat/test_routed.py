"""A conversation through a router, on a real pty."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Registry
from localllm.registry.decisions import Decisions
from localllm.registry.endpoints import Endpoints
from localllm.route.making import create
from localllm.route.pool.member import Member
from localllm.route.pool.spec import Fallback, RouterSpec
from localllm.route.pool.steps import AlwaysStep, LengthStep
from tests.chat.test_repl import ask, chat
from tests.conftest import Done
from tests.route.answering import HI, models

pytest.importorskip("pyte")


@pytest.fixture
def mine(registry: Registry, tmp_path: Path) -> Registry:
    """Up to nine characters go to `hi`, more to `loop`."""
    models(registry, tmp_path / "staged")
    small, big = Member("small", "model", "hi"), Member("big", "model", "loop")
    create(registry, "mine", RouterSpec((small, big), (LengthStep("small", "big", 10),)))
    return registry


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
def test_answers_are_judged(mine: Registry) -> None:
    with chat("router:mine", "--max-tokens", 12) as terminal:
        terminal.until_ready()
        ask(terminal, "/good")
        assert "nothing was answered yet" in terminal.text()
        ask(terminal, "hello")
        text = terminal.text()
        assert HI in text and "small answered: length: 5 characters" in text
        ask(terminal, "/bad big")
        assert "noted: big, of small's answer" in terminal.text()
        ask(terminal, "/bad nobody")
        assert "is no verdict" in terminal.text()
        terminal.send("\x04")
        assert terminal.finish() == 0
    (kept,) = Decisions(mine).of("mine")
    assert [v.verdict for v in kept.votes] == ["big"]


def test_one_question(cli: Callable[..., Done], mine: Registry) -> None:
    done = cli("chat", "router/mine", "hello", "--json")
    assert done.exit_code == 0, done
    assert done.data["text"] == HI
    assert done.data["remote_model"] == "small (hi)"
    (kept,) = Decisions(mine).of("mine")
    routing = done.data["routing"]
    assert (routing["member"], routing["model"], routing["decision"]) == ("small", "hi", kept.id)
    plain = cli("chat", "router/mine", "hello")
    assert "small answered: length: 5 characters" in plain.err
    lost = cli("chat", "router:mien", "hello")
    assert lost.exit_code == 3 and "near: mine" in lost.err
    plain = cli("chat", "hi", "hello", "--raw", "-n", "2")
    assert plain.exit_code == 0
    assert cli("chat", "hi", "hello", "--json", "-n", "2").data["routing"] is None


def test_where_nobody_could_answer_each_member_is_told(
    cli: Callable[..., Done], mine: Registry
) -> None:
    for name in ("down", "off"):  # nobody listens on port 9
        Endpoints.of(mine).add(name, {"url": "http://127.0.0.1:9/v1", "model": name})
    two = (Member("one", "endpoint", "down"), Member("two", "endpoint", "off"))
    create(mine, "far", RouterSpec(two, (AlwaysStep("one"),), Fallback(("one", "two"))))
    for command in (("chat", "router:far", "hello"), ("route", "ask", "far", "hello")):
        failed = cli(*command)
        assert failed.exit_code == 6, failed
        assert "one could not answer: down (127.0.0.1:9)" in failed.err
        assert "error: off (127.0.0.1:9)" in failed.err
