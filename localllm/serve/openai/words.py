"""From OpenAI's words to ours: messages, tools, sampling."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any

from localllm.errors import UsageProblem
from localllm.generation import Message
from localllm.grammars import json_schema_grammar
from localllm.serve.ollama.schemas import OllamaTool
from localllm.serve.openai.schemas import (
    ChatBody,
    ChatMessage,
    Content,
    FunctionTool,
    ImageContent,
    NamedTool,
    RefusalContent,
    ResponseFormat,
    Sampled,
    TextContent,
    ToolSubset,
)
from localllm.serve.web.limits import Limits
from localllm.serve.web.problems import RequestProblem
from localllm.toolcalls import Tool

_SEEDS = 0xFFFFFFFF  # llama.cpp's are 32 bits, and the last means "draw one"
_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)
_GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


def sampling_of(body: Sampled, max_tokens: int | None, grammar: str | None) -> dict[str, Any]:
    """The fields of Sampling that the request decides."""
    names = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repeat_penalty",
             "presence_penalty", "frequency_penalty")  # fmt: skip
    given = {name: getattr(body, name) for name in names}
    given["max_tokens"] = max_tokens
    given["seed"] = None if body.seed is None else body.seed % _SEEDS
    given["grammar"] = grammar or body.grammar
    found = {name: value for name, value in given.items() if value is not None}
    if body.stop:
        found["stop"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    return found


def refuse_others(body: Sampled) -> None:
    """Raise RequestProblem for what other servers' own fields would do to the answer."""
    for name in ("json_schema", "structured_outputs", *_GUIDED):
        if getattr(body, name) is not None:
            raise RequestProblem(
                f"{name} is not read here: response_format (a JSON schema) or grammar", name
            )


def biases(given: dict[str, float] | None) -> dict[int, float]:
    """`logit_bias`: tokens by number. -100 forbids a token, as OpenAI says."""
    found: dict[int, float] = {}
    for text, value in (given or {}).items():
        if not (text.isdigit() and len(text) < 10):
            raise RequestProblem(f"logit_bias: {text!r} is no token number", "logit_bias")
        if not -100 <= value <= 100:
            raise RequestProblem(f"logit_bias: {value:g} is outside -100 to 100", "logit_bias")
        found[int(text)] = float("-inf") if value == -100 else value
    return found


def format_grammar(wanted: ResponseFormat | None) -> str | None:
    """The grammar that `response_format` stands for. Raises RequestProblem for a bad schema."""
    return schema_grammar(format_schema(wanted), "response_format")


def schema_grammar(schema: Mapping[str, Any] | bool | None, where: str) -> str | None:
    """Of the schema in the field `where`. Raises RequestProblem for a bad one."""
    try:
        return None if schema is None else json_schema_grammar(schema)
    except UsageProblem as error:
        raise RequestProblem(error.message, where) from None


def format_schema(wanted: ResponseFormat | None) -> dict[str, Any] | bool | None:
    """The JSON schema that `response_format` stands for. Raises RequestProblem without one."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return _ANY_OBJECT
    if wanted.json_schema is None:
        raise RequestProblem("response_format: json_schema needs the schema", "response_format")
    return wanted.json_schema.json_schema


def tools_of(given: Sequence[FunctionTool | OllamaTool] | None) -> tuple[Tool, ...]:
    """The tools of a request, to either API. Raises RequestProblem for two of one name."""
    found: dict[str, Tool] = {}
    for one in given or ():
        function = one.function
        if function.name in found:
            raise RequestProblem(f"two tools are called {function.name!r}", "tools")
        parameters = function.parameters or {"type": "object", "properties": {}}
        found[function.name] = Tool(function.name, function.description or "", parameters)
    return tuple(found.values())


def choice_of(body: ChatBody, tools: tuple[Tool, ...]) -> tuple[str, tuple[Tool, ...]]:
    """ "auto", "required", "none" or the name of a tool that is there; and the tools that may be
    called."""
    wanted = body.tool_choice
    if isinstance(wanted, NamedTool):
        return named(wanted.function.name, tools), tools
    if isinstance(wanted, ToolSubset):
        allowed = wanted.allowed_tools
        return allowed.mode, subset([one.function.name for one in allowed.tools], tools)
    if wanted == "required" and not tools:
        raise RequestProblem("tool_choice is required, and there are no tools", "tool_choice")
    return wanted or "auto", tools


def named(name: str, tools: Sequence[Tool]) -> str:
    """Raises RequestProblem for what is no tool of the request."""
    if name not in {tool.name for tool in tools}:
        raise RequestProblem(
            f"tool_choice names {name!r}, which is no tool of this request", "tool_choice"
        )
    return name


def subset(names: Sequence[str], tools: Sequence[Tool]) -> tuple[Tool, ...]:
    """Those that `allowed_tools` names. Raises RequestProblem for what is no tool."""
    wanted = {named(name, tools) for name in names}
    return tuple(tool for tool in tools if tool.name in wanted)


def messages_of(given: list[ChatMessage], limits: Limits) -> tuple[Message, ...]:
    """Raises RequestProblem for content that no model here reads."""
    found = tuple(_message(one, f"messages[{i}]", limits) for i, one in enumerate(given))
    check_images(found, "messages", limits)
    return found


def check_images(messages: Sequence[Message], where: str, limits: Limits) -> None:
    """Raise RequestProblem for more images than one request may have."""
    count = sum(len(one.extra.get("images", ())) for one in messages)
    if count > limits.images_in_all:
        raise RequestProblem(
            f"{where}: {count} images; at most {limits.images_in_all} in one request", where
        )


def _message(given: ChatMessage, where: str, limits: Limits) -> Message:
    text, images = content_of(given.content, f"{where}.content", limits)
    extra: dict[str, Any] = {}
    if given.name is not None:
        extra["name"] = given.name
    if given.tool_calls:
        if given.role != "assistant":
            raise RequestProblem(f"{where}: only the assistant has tool_calls", where)
        extra["tool_calls"] = [call.model_dump() for call in given.tool_calls]
    if given.tool_call_id is not None:
        extra["tool_call_id"] = given.tool_call_id
    if given.reasoning_content is not None:
        extra["reasoning_content"] = given.reasoning_content
    if images:
        extra["images"] = images
    if given.content is None and given.role != "assistant":
        raise RequestProblem(f"{where}.content is missing", f"{where}.content")
    role = "system" if given.role == "developer" else given.role
    return Message(role, text, extra)


def content_of(
    given: str | list[Content] | None, where: str, limits: Limits
) -> tuple[str, tuple[bytes, ...]]:
    """The text and the images of a message's content."""
    if given is None or isinstance(given, str):
        return given or "", ()
    texts: list[str] = []
    images: list[bytes] = []
    for i, part in enumerate(given):
        if isinstance(part, TextContent):
            texts.append(part.text)
        elif isinstance(part, RefusalContent):
            texts.append(part.refusal)
        elif isinstance(part, ImageContent):
            images.append(image_of(part.image_url.url, f"{where}[{i}]", limits))
    if len(images) > limits.images:
        raise RequestProblem(f"{where}: more than {limits.images} images", where)
    return "\n".join(texts), tuple(images)


def image_of(url: str, where: str, limits: Limits) -> bytes:
    """The bytes of a data: URL. Nothing is fetched for a client: this server may reach what the
    client may not."""
    head = _DATA_URL.match(url)
    if head is None:
        raise RequestProblem(f"{where}: send the image itself, as data:image/png;base64,...", where)
    if (len(url) - head.end()) * 3 // 4 > limits.image_bytes:
        raise RequestProblem(f"{where}: the image is larger than {limits.image_bytes} bytes", where)
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise RequestProblem(f"{where}: the image is no base64", where) from None
