"""Preference pairs: two answers to one prompt, the better one named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from localllm.finetune.data.rows import Preference, RowAt, RowProblem
from localllm.finetune.data.shapes.chat import read_turns
from localllm.finetune.data.shapes.values import asked, content_of, loaded, text_of, tools_of
from localllm.generation import Message

# Anthropic's HH-RLHF: whole conversations as one text
_HH = re.compile(r"\n\n(Human|Assistant):")


def read_preference(row: Mapping[str, Any], at: RowAt) -> Preference:
    """`prompt` (text or messages), `chosen` and `rejected` (texts, messages, or whole
    conversations that begin the same). Raises RowProblem."""
    chosen, rejected = _side(row.get("chosen"), "chosen"), _side(row.get("rejected"), "rejected")
    prompt = list(_prompt(row))
    prompt, chosen, rejected = _apart(prompt, chosen, rejected)
    system = row.get("system") or row.get("system_prompt")
    if isinstance(system, str) and system.strip() and (not prompt or prompt[0].role != "system"):
        prompt = [Message("system", system), *prompt]
    if not prompt:
        raise RowProblem("no prompt", "chosen and rejected answer no prompt")
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not side or side[-1].role != "assistant":
            raise RowProblem("no answer", f"{name} does not end with an answer")
    if chosen == rejected:
        raise RowProblem("no preference", "chosen and rejected are the same")
    tools = tools_of(row["tools"] if row.get("tools") else None)
    return Preference(tuple(prompt), tuple(chosen), tuple(rejected), tools, at)


def _prompt(row: Mapping[str, Any]) -> Sequence[Message]:
    given = loaded(row.get("prompt"), "prompt")
    if isinstance(given, list) and given and isinstance(given[0], Mapping):
        return read_turns(given)[0]
    text = text_of(given, "prompt")
    if not text.strip():
        return ()
    if _HH.match(text):
        return _spoken(text)
    return asked("", text)


def _side(value: Any, name: str) -> list[Message]:
    given = loaded(value, name)
    if isinstance(given, Mapping) and ("role" in given or "from" in given):
        given = [given]
    if (
        isinstance(given, list)
        and given
        and isinstance(given[0], Mapping)
        and "type" not in given[0]
    ):
        return read_turns(given)[0]
    text = content_of(given, name)
    if not text.strip():
        raise RowProblem("empty", f"{name} is empty")
    if _HH.match(text):
        return list(_spoken(text))
    return [Message("assistant", text)]


def _spoken(text: str) -> Sequence[Message]:
    parts = _HH.split(text)[1:]
    turns = [
        Message("user" if who == "Human" else "assistant", said.strip())
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    # a prompt ends with an open "Assistant:"
    return turns[:-1] if turns and turns[-1] == Message("assistant", "") else turns


def _apart(
    prompt: list[Message], chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """What both sides begin with belongs to the prompt, which they may repeat."""
    if prompt and chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    elif prompt and len(chosen) > 1 and len(rejected) > 1:
        # whole conversations: a prompt beside them is only their first question again
        shared = _shared(chosen, rejected)
        if any(m.role == "user" and m.content == prompt[-1].content for m in chosen[:shared]):
            prompt = []
    if not prompt:
        shared = min(_shared(chosen, rejected), len(chosen) - 1, len(rejected) - 1)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    return prompt, chosen, rejected


def _shared(one: Sequence[Message], other: Sequence[Message]) -> int:
    n = 0
    while n < min(len(one), len(other)) and one[n] == other[n]:
        n += 1
    return n
