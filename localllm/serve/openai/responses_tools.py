"""The tools of a request to /v1/responses: functions, alone or in namespaces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from localllm.serve.openai.responses_schemas import (
    ChosenTool,
    ResponsesBody,
    ResponseTool,
    ToolSubset,
)
from localllm.serve.openai.words import named, subset
from localllm.serve.web.problems import RequestProblem
from localllm.toolcalls import Tool

# What OpenAI's machines would do by themselves, and agents offer unasked. An answer may do without
# them, so they are left out; the response says which tools there were.
_OFFERED_UNASKED = ("web_search", "image_generation", "tool_search")


def tools_here(given: Sequence[ResponseTool] | None) -> list[ResponseTool]:
    """Those that this server knows of."""
    return [one for one in given or () if _is_here(one)]


def _is_here(tool: ResponseTool) -> bool:
    return not tool.type.startswith(_OFFERED_UNASKED)


def tools_of(given: Sequence[ResponseTool] | None) -> tuple[Tool, ...]:
    """Raises RequestProblem for what is no function, and two of one name."""
    found: dict[str, Tool] = {}
    for where, one in _functions(given or ()):
        if one.type != "function" or not one.name:
            raise RequestProblem(
                f"{where} is {one.type!r}: functions with a name are called here", "tools"
            )
        if one.name in found:
            raise RequestProblem(f"two tools are called {one.name!r}", "tools")
        parameters = one.parameters or {"type": "object", "properties": {}}
        found[one.name] = Tool(one.name, one.description or "", parameters)
    return tuple(found.values())


def _functions(given: Sequence[ResponseTool]) -> Iterator[tuple[str, ResponseTool]]:
    for i, one in enumerate(given):
        if one.type == "namespace":
            yield from ((f"tools[{i}].tools[{j}]", two) for j, two in enumerate(one.tools or ()))
        elif _is_here(one):
            yield f"tools[{i}]", one


def namespaces_of(given: Sequence[ResponseTool] | None) -> dict[str, str]:
    """The namespace of each function that stands in one."""
    return {
        two.name: one.name
        for one in given or ()
        for two in one.tools or ()
        if one.type == "namespace" and one.name and two.name
    }


def shown(tool: ResponseTool) -> dict[str, Any]:
    """As the response has it."""
    found = tool.model_dump(exclude={"tools"})
    return found if tool.tools is None else found | {"tools": [shown(one) for one in tool.tools]}


def choice_of(body: ResponsesBody, tools: tuple[Tool, ...]) -> tuple[str, tuple[Tool, ...]]:
    """As in chat: the choice, and the tools that may be called."""
    wanted = body.tool_choice
    if isinstance(wanted, ChosenTool):
        return named(wanted.name, tools), tools
    if isinstance(wanted, ToolSubset):
        return wanted.mode, subset([one.name for one in wanted.tools], tools)
    if wanted == "required" and not tools:
        raise RequestProblem("tool_choice is required, and there are no tools", "tool_choice")
    return wanted or "auto", tools
