"""What people thought of routers' answers, as rows: the answers they judged good, and their own.

A decision of a router holds the question and the votes, not the answer. That is in the kept
conversation in which the question was asked: the user's message of the same words just before
the decision, and the answer that came just after it. An answer judged bad is context; so are
answers that nobody judged. Questions that a person answered come whole from the inbox.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from localllm.finetune.data.kept import chat_of
from localllm.finetune.data.rows import BadRow, Chat, RowAt, RowProblem
from localllm.finetune.data.shapes.chat import read_turns
from localllm.registry import Registry
from localllm.registry.chats import Chats, KeptMessage
from localllm.registry.decisions import Decided, Decisions
from localllm.registry.inbox import ANSWERED, Inbox, InboxItem
from localllm.registry.routers import Routers

SOURCE = "votes"
_SLACK_S = 1.0  # clocks are read a moment before what they stand for is written


def read_votes(registry: Registry) -> Iterator[Chat | BadRow]:
    """Conversations with an answer that was judged good, up to the last such answer, then what
    people answered themselves. Reads only."""
    judged = _judged(registry)
    chats = Chats.of(registry)
    for chat in sorted(chats.list(), key=lambda one: one.id) if judged else ():
        kept = [m for m in chats.messages(chat.id) if not m.data.get("is_summary")]
        if good := _good(kept, judged):
            at = RowAt(SOURCE, chat.id, "chat")
            try:
                row = chat_of(chat, kept[: good[-1] + 1], at)
                yield replace(row, counts=tuple(k in good for k in range(len(row.messages))))
            except RowProblem as problem:
                yield BadRow(problem.kind, problem.reason, at)
    for item in Inbox(registry).list(every=True):
        if item.state == ANSWERED and item.answer:
            yield _answered(item, item.answer)


def _judged(registry: Registry) -> dict[str, list[Decided]]:
    """Decisions with votes, by the question's words."""
    decisions, found = Decisions(registry), defaultdict(list)
    for router in Routers(registry).list():
        for one in decisions.of(router.name, voted=True):
            if one.prompt:
                found[one.prompt].append(one)
    return found


def _good(kept: Sequence[KeptMessage], judged: dict[str, list[Decided]]) -> list[int]:
    """Places of the answers that all who judged them call good."""
    found = []
    for i, question in enumerate(kept):
        if question.role != "user" or question.content not in judged:
            continue
        after = range(i + 1, len(kept))
        end = next((k for k in after if kept[k].role == "user"), len(kept))
        answers = [k for k in range(i + 1, end) if kept[k].role == "assistant"]
        for one in judged[question.content]:
            within = [k for k in answers if kept[k].made_at >= one.made_at - _SLACK_S]
            if within and question.made_at <= one.made_at + _SLACK_S and _is_good(one):
                found.append(within[-1])
    return sorted(set(found))


def _is_good(decision: Decided) -> bool:
    return all(vote.verdict in ("good", decision.member) for vote in decision.votes)


def _answered(item: InboxItem, answer: str) -> Chat | BadRow:
    at = RowAt(SOURCE, item.id, "question")
    try:
        messages, _ = read_turns([*item.messages, {"role": "assistant", "content": answer}])
    except RowProblem as problem:
        return BadRow(problem.kind, problem.reason, at)
    return Chat(tuple(messages), (*(False,) * (len(messages) - 1), True), (), at)
