"""Conversations in OpenAI's form."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from localllm.errors import UsageProblem
from localllm.generation import Message

_REASONING = ("reasoning_content", "thinking", "reasoning")
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
)


def messages_json(messages: Sequence[Message], *, with_reasoning: bool) -> list[dict[str, Any]]:
    """`messages` as the API wants them. `with_reasoning` sends earlier thinking back, which servers
    of local models take and others refuse.

    Images become data URLs, calls get ids where they have none (Ollama's API knows none), and
    results the ids of the calls that they answer, in order. Raises UsageProblem for an image of
    an unknown form.
    """
    found: list[dict[str, Any]] = []
    open_ids: list[str] = []  # of calls not answered yet
    n_calls = 0
    for message in messages:
        one: dict[str, Any] = {"role": message.role, "content": _content(message)}
        if name := message.extra.get("name"):
            one["name"] = name
        if calls := message.extra.get("tool_calls"):
            one["tool_calls"] = made = [_call(call, n_calls + i) for i, call in enumerate(calls)]
            n_calls += len(made)
            open_ids = [call["id"] for call in made]
            one["content"] = one["content"] or None
        if message.role == "tool":
            one["tool_call_id"] = _answered(message, open_ids)
            one.pop("name", None)
        if with_reasoning and message.role == "assistant":
            thought = next((message.extra[k] for k in _REASONING if message.extra.get(k)), None)
            if isinstance(thought, str):
                one["reasoning_content"] = thought
        found.append(one)
    return found


def _content(message: Message) -> Any:
    images = message.extra.get("images") or ()
    if not images:
        return message.content
    text = [{"type": "text", "text": message.content}] if message.content else []
    return [*text, *({"type": "image_url", "image_url": {"url": _url(one)}} for one in images)]


def _url(image: bytes) -> str:
    kind = next((name for magic, name in _MAGIC if image.startswith(magic)), None)
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        kind = "webp"
    if kind is None:
        raise UsageProblem("an image is neither PNG, JPEG, WebP, GIF nor BMP")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


def _call(call: Mapping[str, Any], number: int) -> dict[str, Any]:
    function = call.get("function", {})
    arguments = function.get("arguments", "")
    # Templates want an object, the API wants its text.
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    named = {"name": function.get("name", ""), "arguments": arguments or "{}"}
    return {"id": call.get("id") or f"call_{number}", "type": "function", "function": named}


def _answered(message: Message, open_ids: list[str]) -> str:
    given = message.extra.get("tool_call_id")
    if given:
        if given in open_ids:
            open_ids.remove(given)
        return str(given)
    return open_ids.pop(0) if open_ids else "call_0"
