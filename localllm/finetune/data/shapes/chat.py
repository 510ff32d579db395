"""Conversations: OpenAI's messages and ShareGPT's turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from localllm.finetune.data.rows import Chat, RowAt, RowProblem
from localllm.finetune.data.shapes.values import (
    THINKING,
    calls_of,
    content_of,
    loaded,
    thinking_of,
    tools_of,
)
from localllm.generation import Message, Role

_ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "model": "assistant", "bing": "assistant", "bard": "assistant", "ai": "assistant",
    "function_call": "assistant", "tool_call": "assistant", "tool_calls": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool",
    "ipython": "tool",
}  # fmt: skip
_CALLS = ("function_call", "tool_call", "tool_calls")


def read_chat(turns: Any, row: Mapping[str, Any], at: RowAt) -> Chat:
    """A conversation of either kind. `row` may have `tools` (or `functions`) and `system` beside
    it. Raises RowProblem."""
    messages, counts = read_turns(turns)
    system = row.get("system") or row.get("system_prompt")
    if isinstance(system, str) and system.strip() and messages[0].role != "system":
        messages, counts = [Message("system", system), *messages], [True, *counts]
    tools = tools_of(row["tools"] if row.get("tools") else row.get("functions"))
    return Chat(tuple(messages), tuple(counts), tools, at)


def read_turns(turns: Any) -> tuple[list[Message], list[bool]]:
    """Messages, and whether each counts (its `weight` is not 0). Raises RowProblem."""
    given = loaded(turns, "messages")
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise RowProblem("no messages", "it has no messages")
    messages: list[Message] = []
    counts: list[bool] = []
    n_calls = 0
    for number, turn in enumerate(given, start=1):
        if not isinstance(turn, Mapping):
            raise RowProblem("bad message", f"message {number} is no object with a role")
        message, count = _turn(turn, number, n_calls)
        calls = message.extra.get("tool_calls", ())
        if message.role == "tool" and "tool_call_id" not in message.extra:
            message = _answering(message, messages)
        n_calls += len(calls)
        messages.append(message)
        counts.append(count)
    return messages, counts


def _turn(turn: Mapping[str, Any], number: int, n_calls: int) -> tuple[Message, bool]:
    where = f"message {number}"
    said = turn.get("role", turn.get("from"))
    role = _ROLES.get(said.strip().lower()) if isinstance(said, str) else None
    if role is None or not isinstance(said, str):
        raise RowProblem("unknown role", f"{where} has the role {str(said)[:40]!r}")
    given = turn["content"] if "content" in turn else turn.get("value", turn.get("text"))
    extra: dict[str, Any] = {}
    if said.strip().lower() in _CALLS:
        called = loaded(given, where)
        extra["tool_calls"] = calls_of(called if isinstance(called, list) else [called], n_calls)
        given = None
    elif turn.get("tool_calls"):
        extra["tool_calls"] = calls_of(turn["tool_calls"], n_calls)
    elif turn.get("function_call"):  # OpenAI's older form
        extra["tool_calls"] = calls_of([turn["function_call"]], n_calls)
    if "tool_calls" in extra and role != "assistant":
        raise RowProblem("bad tool call", f"{where}: only the assistant has tool calls")
    if given is None and "tool_calls" not in extra and not turn.get("refusal"):
        raise RowProblem("no content", f"{where} has no content")
    for name in ("name", "tool_call_id"):
        if isinstance(turn.get(name), str) and turn[name]:
            extra[name] = turn[name]
    if role == "assistant" and (thought := thinking_of(turn)):
        extra[THINKING] = thought
    text = content_of(given if given is not None else turn.get("refusal"), where)
    return Message(role, text, extra), _counts(turn, where)


def _counts(turn: Mapping[str, Any], where: str) -> bool:
    """OpenAI's `weight`, 0 or 1; Axolotl's `train`."""
    weight = turn.get("weight")
    if weight is not None and weight not in (0, 1):
        raise RowProblem("bad weight", f"{where} has a weight that is neither 0 nor 1")
    return weight != 0 and turn.get("train") is not False


def _answering(message: Message, before: Sequence[Message]) -> Message:
    """A tool's result with the id of the call that it answers: by name, else in order."""
    taken = {m.extra.get("tool_call_id") for m in before}
    name = message.extra.get("name")
    open_calls = [
        call for m in before for call in m.extra.get("tool_calls", ()) if call["id"] not in taken
    ]
    named = [call for call in open_calls if call["function"]["name"] == name]
    if not (found := named or open_calls):
        return message
    answered = {"tool_call_id": found[0]["id"], "name": found[0]["function"]["name"]}
    return Message(message.role, message.content, {**answered, **message.extra})
