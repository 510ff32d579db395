"""A row of a known shape as what is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localllm.finetune.data.rows import Chat, RawRow, Record, RowProblem, Text
from localllm.finetune.data.shapes.chat import read_chat
from localllm.finetune.data.shapes.detect import Shape
from localllm.finetune.data.shapes.pairs import read_preference
from localllm.finetune.data.shapes.values import asked, loaded, text_of, tools_of
from localllm.generation import Message


def read_row(row: RawRow, shape: Shape) -> Record:
    """Raises RowProblem: what is missing, empty or of the wrong kind."""
    value, columns = row.value, shape.columns
    if shape.format in ("chat", "sharegpt"):
        if columns["messages"] not in value:
            raise RowProblem("no messages", f"it has no {columns['messages']}")
        return read_chat(value[columns["messages"]], value, row.at)
    if shape.format == "text":
        text = _need(value, columns["text"])
        return Text(text, row.at)
    if shape.format == "preference":
        renamed = {role: value.get(name) for role, name in columns.items()}
        return read_preference({**value, **renamed}, row.at)
    return _answered(row, columns)


def _answered(row: RawRow, columns: Mapping[str, str]) -> Chat:
    value = row.value
    prompt, answer = _need(value, columns["prompt"]), _need(value, columns["answer"])
    context = text_of(value.get(columns.get("context", "")), "context")
    question = f"{prompt}\n\n{context}" if context.strip() else prompt
    system = text_of(value.get(columns.get("system", "")), "system")
    before = list(asked(system, ""))[:-1] + _history(value)
    messages = (*before, Message("user", question), Message("assistant", answer))
    tools = tools_of(value["tools"] if value.get("tools") else None)
    return Chat(messages, (True,) * len(messages), tools, row.at)


def _history(value: Mapping[str, Any]) -> list[Message]:
    """Earlier questions and answers, as LLaMA-Factory's Alpaca files have them."""
    given = loaded(value.get("history"), "history")
    if not isinstance(given, list):
        return []
    found: list[Message] = []
    for pair in given:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowProblem("bad history", "history is no list of questions and answers")
        question, answer = (text_of(part, "history") for part in pair)
        found += [Message("user", question), Message("assistant", answer)]
    return found


def _need(value: Mapping[str, Any], name: str) -> str:
    if name not in value:
        raise RowProblem("no column", f"it has no {name}")
    text = text_of(value[name], name)
    if not text.strip():
        raise RowProblem("empty", f"{name} is empty")
    return text
