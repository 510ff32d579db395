"""Values of columns as texts, messages and tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from localllm.finetune.data.reading.jsonvalue import parse
from localllm.finetune.data.rows import RowProblem
from localllm.generation import Message
from localllm.toolcalls import Tool

# Under which of these an answer's thinking stands; a model's template has its own name for it.
THINKING = "thinking"
_THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")
_CALL_ID = "call{:05d}"  # nine letters and digits, as the strictest templates want


def text_of(value: Any, column: str) -> str:
    """A text; numbers and truth values as JSON writes them, nothing as "". Raises RowProblem."""
    if isinstance(value, str):
        if "\0" in value:
            raise RowProblem("NUL bytes", f"{column} holds NUL bytes")
        return value
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return "" if value != value else json.dumps(value)
    raise RowProblem("no text", f"{column} is no text")


def content_of(value: Any, where: str) -> str:
    """The text of a message: a text, or OpenAI's list of parts joined by newlines, as `serve`
    joins them. Raises RowProblem for images, sounds and files."""
    if not isinstance(value, list):
        return text_of(value, where)
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, str):
            texts.append(text_of(part, where))
        elif kind in ("text", "input_text", "output_text", "refusal"):
            texts.append(text_of(part.get("refusal" if kind == "refusal" else "text"), where))
        else:
            raise RowProblem(
                "not only text", f"{where} has a part {str(kind)!r}; only text is learned"
            )
    return "\n".join(texts)


def loaded(value: Any, column: str) -> Any:
    """A list or an object, also where a table holds it as JSON text. Raises RowProblem."""
    if not isinstance(value, str):
        return value
    if value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return parse(value)
    except RowProblem as problem:
        raise RowProblem(problem.kind, f"{column}: {problem.reason}") from None


def tools_of(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Tools in the words in which `chat` and `serve` hand them to a template."""
    given = loaded(value, "tools")
    if given in (None, "", [], {}):
        return ()
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise RowProblem("bad tools", "tools is no list of functions")
    found = []
    for one in given:
        function = one.get("function", one) if isinstance(one, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
            raise RowProblem("bad tools", "a tool has no name")
        parameters = loaded(function.get("parameters"), "parameters of a tool") or {}
        if not isinstance(parameters, Mapping):
            raise RowProblem("bad tools", f"the parameters of {name!r} are no JSON schema")
        description = function.get("description")
        about = description if isinstance(description, str) else ""
        found.append(Tool(name, about, parameters).as_openai())
    return tuple(found)


def calls_of(value: Any, first: int) -> list[dict[str, Any]]:
    """Tool calls as templates want them; one without an id gets a number, from `first` on."""
    given = loaded(value, "tool_calls")
    if not isinstance(given, list):
        raise RowProblem("bad tool call", "tool_calls is no list")
    return [_call(one, first + i) for i, one in enumerate(given)]


def _call(one: Any, number: int) -> dict[str, Any]:
    function = one.get("function", one) if isinstance(one, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowProblem("bad tool call", "a tool call names no function")
    arguments = loaded(function.get("arguments"), "arguments of a tool call")
    if arguments in (None, ""):
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise RowProblem("bad tool call", "the arguments of a tool call are no JSON object")
    call_id = one.get("id")
    call_id = call_id if isinstance(call_id, str) and call_id else _CALL_ID.format(number)
    body = {"name": function["name"], "arguments": dict(arguments)}
    return {"id": call_id, "type": "function", "function": body}


def thinking_of(message: Mapping[str, Any]) -> str:
    """What an answer's author thought, where the row says it apart."""
    found = next((message[k] for k in _THINKING_KEYS if message.get(k)), "")
    return found if isinstance(found, str) else ""


def asked(system: str, question: str) -> tuple[Message, ...]:
    """The messages before an answer."""
    first = (Message("system", system),) if system.strip() else ()
    return (*first, Message("user", question))
