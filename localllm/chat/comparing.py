"""Two answers to one question side by side, and which is better: /compare and /vote.

Who A and B are is told after the vote. The preferred answer goes into the conversation then; until
that the conversation is as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm.chat.answer import Spoken
from localllm.chat.commands import Command
from localllm.chat.conversation import Conversation, Entry
from localllm.chat.far import FarAsk, spoken_of
from localllm.errors import UsageProblem
from localllm.library.answering import VERDICTS, Comparable, Revealed, SideBySide
from localllm.ui import keys_unseen

if TYPE_CHECKING:
    from localllm.chat.repl import Repl

_LETTERS = ("A", "B")
_SHORT = {"=": "tie", "both": "both-bad", "bad": "both-bad", "neither": "both-bad"}


@dataclass(frozen=True)
class Compared:
    """What is to be voted on. `before` is the conversation's entries as they were, `asked` those
    with the question at their end."""

    sides: SideBySide
    spoken: tuple[Spoken, Spoken]
    conversation: Conversation
    before: tuple[Entry, ...]
    asked: tuple[Entry, ...]


def compare(repl: Repl, rest: str) -> None:
    """The last question, or `rest` as a new one, answered by two."""
    generator = repl.talk.session.generator
    if not isinstance(generator, Comparable):
        raise UsageProblem(
            f"{repl.talk.session.name} answers alone: a router has two who can",
            "localllm route create NAME --member a=MODEL --member b=MODEL --strategy random",
        )
    conversation = repl.talk.conversation
    asked = _asked(repl, rest)
    repl.compared = None
    talk = repl.talk
    if talk.offered:
        repl.sink.note("they are compared without tools")
    ask = FarAsk(talk.settings, talk.forced, talk.schema)
    sides = generator.compare(ask.wanted(Conversation(asked)))
    try:
        with keys_unseen():
            spoken = [_side(repl, letter, sides, i) for i, letter in enumerate(_LETTERS)]
    finally:
        sides.end()
    if rest:
        repl.attached.clear()
        repl.images.clear()
    repl.compared = Compared(
        sides, (spoken[0], spoken[1]), conversation, tuple(conversation.entries), tuple(asked)
    )
    repl.sink.note(f"which is better? {' | '.join(f'/vote {one}' for one in VERDICTS)}")


def vote(repl: Repl, rest: str) -> None:
    """Say which was better, and learn who they were."""
    compared = repl.compared
    if compared is None:
        raise UsageProblem("there is nothing to vote on", "/compare")
    verdict = "-".join(rest.casefold().split())
    verdict = _SHORT.get(verdict, verdict)
    if verdict not in VERDICTS:
        raise UsageProblem(f"a vote is one of {', '.join(VERDICTS)}", "/vote a")
    first, second = (one.text for one in compared.spoken)
    revealed = compared.sides.vote(verdict, (first, second))
    repl.compared = None
    repl.sink.note(f"noted: A was {revealed.a}, B was {revealed.b}; {_meant(verdict, revealed)}")
    if verdict != "both-bad":
        _go_on(repl, compared, compared.spoken[1 if verdict == "b" else 0])


def _asked(repl: Repl, rest: str) -> list[Entry]:
    """The conversation with the question at its end."""
    entries = repl.talk.conversation.entries
    if rest:
        text = "\n\n".join([*repl.attached, rest])
        return [*entries, Entry("user", text, images=tuple(repl.images))]
    turns = repl.talk.conversation.turns()
    if not turns:
        raise UsageProblem("nothing was asked yet", "/compare a question")
    return entries[: turns[-1].start + 1]


def _side(repl: Repl, letter: str, sides: SideBySide, number: int) -> Spoken:
    """One answer, shown as it comes. Ctrl-C gives the comparison up."""
    repl.sink.note(f"--- {letter} ---")
    spoken = spoken_of(sides.streams[number], repl.talk.view)
    if spoken.account.finish_reason == "cancelled":
        raise KeyboardInterrupt
    return spoken


def _meant(verdict: str, revealed: Revealed) -> str:
    if revealed.preferred is not None:
        return f"{revealed.preferred} was better"
    return "both were as good" if verdict == "tie" else "neither was good"


def _go_on(repl: Repl, compared: Compared, spoken: Spoken) -> None:
    """With the answer that was preferred, or the first of two as good."""
    talk = repl.talk
    unchanged = talk.conversation is compared.conversation
    if not unchanged or tuple(talk.conversation.entries) != compared.before:
        repl.sink.note("the conversation went on meanwhile: it is left as it is")
        return
    answer = Entry(
        "assistant", spoken.text, spoken.thinking, model=talk.session.name,
        finish=spoken.account.finish_reason,
    )  # fmt: skip
    talk.conversation.entries = [*compared.asked, answer]
    talk.keeper.save(talk.conversation, talk.session.name)


COMMANDS = (
    Command("/compare", "[PROMPT]", "Two members of a router answer, names hidden.", compare),
    Command("/vote", "|".join(VERDICTS), "Say which of the two answers is better.", vote),
)
