"""Conversations that `localllm chat` kept, as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from localllm.errors import NotFound
from localllm.finetune.data.rows import BadRow, Chat, RowAt, RowProblem
from localllm.finetune.data.shapes.values import THINKING, calls_of, text_of, tools_of
from localllm.finetune.data.spec import ChatFilter
from localllm.generation import Message, Role
from localllm.registry.chats import Chats, KeptChat, KeptMessage

SOURCE = "chats"
_ROLES: Mapping[str, Role] = {
    "system": "system", "user": "user", "assistant": "assistant", "tool": "tool",
}  # fmt: skip
_CUT = ("length", "context", "cancelled")  # how an answer ends that is not whole


def chosen_chats(chats: Chats, wanted: ChatFilter) -> tuple[KeptChat, ...]:
    """The conversations that `wanted` lets through, by number. Raises NotFound where a number
    means none, or nothing is left."""
    kept = {chat.id: chat for chat in chats.list()}
    for number in wanted.ids:
        if number not in kept:
            raise NotFound(f"no conversation {number} is kept", "localllm chats")
    found = [kept[i] for i in sorted(kept) if _passes(kept[i], wanted)]
    if not found:
        what = "no conversation is like that" if kept else "no conversation is kept"
        raise NotFound(what, "localllm chats")
    return tuple(found)


def read_chats(chats: Chats, chosen: tuple[KeptChat, ...]) -> Iterator[Chat | BadRow]:
    """Each conversation whole, also what had left the model's sight; summaries of it are none of
    its words. An answer that was cut off is context, nothing to learn."""
    for chat in chosen:
        at = RowAt(SOURCE, chat.id, "chat")
        try:
            yield chat_of(chat, chats.messages(chat.id), at)
        except RowProblem as problem:
            yield BadRow(problem.kind, problem.reason, at)


def _passes(chat: KeptChat, wanted: ChatFilter) -> bool:
    def one_of(parts: tuple[str, ...], text: str) -> bool:
        return not parts or any(part.casefold() in text.casefold() for part in parts)

    return (
        (not wanted.ids or chat.id in wanted.ids)
        and one_of(wanted.models, chat.model)
        and one_of(wanted.titles, chat.title)
        and (wanted.since is None or chat.changed_at >= wanted.since)
        and (wanted.until is None or chat.changed_at < wanted.until)
    )


def chat_of(chat: KeptChat, kept: Sequence[KeptMessage], at: RowAt) -> Chat:
    """The conversation of the messages `kept`. Raises RowProblem for what is no text."""
    messages: list[Message] = []
    counts: list[bool] = []
    n_calls = 0
    for one in kept:
        if one.data.get("is_summary"):
            continue
        if one.attachments:
            raise RowProblem("not only text", "it has images; only text is learned")
        role = _ROLES.get(one.role)
        if role is None:
            raise RowProblem("unknown role", f"a message has the role {one.role!r}")
        extra = _extra(one, n_calls)
        n_calls += len(extra.get("tool_calls", ()))
        messages.append(Message(role, text_of(one.content, "a message"), extra))
        counts.append(one.data.get("finish") not in _CUT)
    return Chat(tuple(messages), tuple(counts), tools_of(chat.data.get("tools")), at)


def _extra(kept: KeptMessage, n_calls: int) -> dict[str, Any]:
    given = kept.data.get("extra")
    extra = dict(given) if isinstance(given, Mapping) else {}
    if extra.get("tool_calls"):
        extra["tool_calls"] = calls_of(extra["tool_calls"], n_calls)
    if kept.role == "assistant" and (thought := kept.data.get("thinking")):
        extra[THINKING] = str(thought)
    return extra
