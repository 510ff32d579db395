"""From the words of /v1/responses to ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from localllm.generation import Message
from localllm.serve.answering.ask import Ask
from localllm.serve.openai.responses_schemas import (
    InputImage,
    InputItem,
    InputRefusal,
    InputText,
    ResponsesBody,
    TextFormat,
)
from localllm.serve.openai.responses_tools import choice_of, tools_of
from localllm.serve.openai.words import check_images, image_of, schema_grammar
from localllm.serve.web.limits import Limits
from localllm.serve.web.problems import RequestProblem


def ask_of(body: ResponsesBody, before: Sequence[Message], limits: Limits) -> Ask:
    """`before` is the conversation that this one goes on from."""
    _refuse(body)
    choice, tools = choice_of(body, tools_of(body.tools))
    sampling: dict[str, Any] = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "max_tokens": body.max_output_tokens,
    }
    schema = _schema(body.text.format if body.text else None)
    sampling["grammar"] = schema_grammar(schema, "text.format")
    said = (*before, *messages_of(body, limits))
    check_images(said, "input", limits)
    system = (Message("system", body.instructions),) if body.instructions else ()
    effort = body.reasoning.effort if body.reasoning else None
    variables: dict[str, Any] = {}
    if effort is not None:
        variables = {"reasoning_effort": effort, "enable_thinking": effort != "none"}
    return Ask(
        messages=(*system, *said),
        sampling={name: value for name, value in sampling.items() if value is not None},
        schema=schema,
        tools=tools,
        tool_choice=choice,
        logprobs=body.n_logprobs,
        parallel_calls=body.parallel_tool_calls is not False,
        variables=variables,
        deadline_s=limits.answer_s,
    )


def _refuse(body: ResponsesBody) -> None:
    if body.background:
        raise RequestProblem("background responses are not made here", "background")
    if body.conversation is not None:
        raise RequestProblem(
            "there are no conversations here; previous_response_id", "conversation"
        )
    if body.prompt is not None:
        raise RequestProblem("there are no stored prompts here", "prompt")


def _schema(wanted: TextFormat | None) -> dict[str, Any] | bool | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    if wanted.json_schema is None:
        raise RequestProblem("text.format: json_schema needs the schema", "text.format")
    return wanted.json_schema


def messages_of(body: ResponsesBody, limits: Limits) -> tuple[Message, ...]:
    """The input's messages. Calls that follow each other were made in one turn; what was thought
    belongs to the turn that it precedes."""
    if isinstance(body.input, str):
        return (Message("user", body.input),)
    found: list[Message] = []
    thought = ""
    for i, item in enumerate(body.input):
        where = f"input[{i}]"
        if item.type == "reasoning":
            thought = "\n".join(filter(None, (thought, item.thought)))
            continue
        if item.type == "function_call":
            _add_call(found, item, where)
        elif item.type == "function_call_output":
            if item.call_id is None:
                raise RequestProblem(f"{where}.call_id is missing", where)
            text, images = _content(item.output, where, limits)
            if images:
                raise RequestProblem(f"{where}: a tool's output is text here", where)
            found.append(Message("tool", text, {"tool_call_id": item.call_id}))
        else:
            found.append(_message(item, where, limits))
        if thought and found[-1].role == "assistant":
            found[-1] = _thoughtful(found[-1], thought)
        thought = ""
    if not found:
        raise RequestProblem("input is empty", "input")
    return tuple(found)


def _thoughtful(message: Message, thought: str) -> Message:
    before = message.extra.get("reasoning_content")
    whole = thought if before is None else f"{before}\n{thought}"
    return Message(message.role, message.content, {**message.extra, "reasoning_content": whole})


def _add_call(found: list[Message], item: InputItem, where: str) -> None:
    if item.name is None or item.arguments is None or item.call_id is None:
        raise RequestProblem(f"{where}: a call has call_id, name and arguments", where)
    call = {
        "id": item.call_id,
        "type": "function",
        "function": {"name": item.name, "arguments": item.arguments},
    }
    last = found[-1] if found else None
    if last is not None and last.role == "assistant":
        calls = [*last.extra.get("tool_calls", ()), call]
        found[-1] = Message("assistant", last.content, {**last.extra, "tool_calls": calls})
    else:
        found.append(Message("assistant", "", {"tool_calls": [call]}))


def _message(item: InputItem, where: str, limits: Limits) -> Message:
    if item.role is None:
        raise RequestProblem(f"{where}.role is missing", where)
    text, images = _content(item.content, where, limits)
    role = "system" if item.role == "developer" else item.role
    return Message(role, text, {"images": images} if images else {})


def _content(given: Any, where: str, limits: Limits) -> tuple[str, tuple[bytes, ...]]:
    if given is None or isinstance(given, str):
        return given or "", ()
    texts: list[str] = []
    images: list[bytes] = []
    for i, part in enumerate(given):
        if isinstance(part, InputText):
            texts.append(part.text)
        elif isinstance(part, InputRefusal):
            texts.append(part.refusal)
        elif isinstance(part, InputImage) and part.image_url:
            images.append(image_of(part.image_url, f"{where}.content[{i}]", limits))
        else:
            raise RequestProblem(f"{where}.content[{i}]: text and images are read here", where)
    if len(images) > limits.images:
        raise RequestProblem(f"{where}: more than {limits.images} images", where)
    return "\n".join(texts), tuple(images)
