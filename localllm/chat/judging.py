"""Commands on a router's answers: good, bad, or another member's would be better."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localllm.chat.commands import Command
from localllm.errors import UsageProblem
from localllm.library.answering import Judgeable

if TYPE_CHECKING:
    from localllm.chat.repl import Repl


def good(repl: Repl, rest: str) -> None:
    _judge(repl, "good")


def bad(repl: Repl, rest: str) -> None:
    """With a name: that member's answer is better."""
    _judge(repl, rest or "bad")


def _judge(repl: Repl, verdict: str) -> None:
    session = repl.talk.session
    generator = session.generator
    if not isinstance(generator, Judgeable):
        raise UsageProblem(
            "only a router's answers are judged: it learns from that", "/model router:NAME"
        )
    repl.sink.note(f"noted: {generator.judge(verdict)}")


COMMANDS = (
    Command("/good", "", "Tell a router that its answer was good.", good),
    Command("/bad", "[MEMBER]", "Tell a router that its answer was bad, or who is better.", bad),
)
