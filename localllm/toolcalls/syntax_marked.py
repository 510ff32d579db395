"""Calls whose arguments stand between marks of their own: Qwen3-Coder, GLM, MiniMax, Seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from localllm.grammars.nodes import (
    Node,
    Repeat,
    alt,
    optional,
    seq,
)
from localllm.toolcalls.calls import Found, Tool
from localllm.toolcalls.forcing import Forcing, kind_of, types_of
from localllm.toolcalls.reading import Attempt, NoCall, Reading, parse


@dataclass(frozen=True)
class MarkedCalls:
    """`opener`, the function, for each argument its name and its value, and the closing marks.

    A value stands as plain text where the parameter is a string, as JSON otherwise. `line` is
    what stands between the marks where we write them, and once at each end of a value.
    """

    openers: tuple[str, ...]
    close: str
    name_open: str
    name_close: str
    key_open: str
    key_close: str
    value_close: str
    function_close: str = ""
    line: str = "\n"
    value_line: str = "\n"
    bare: bool = False
    several_inside: bool = False  # several functions between one pair of outer marks

    def read(
        self, attempt: Attempt, opener: str, tools: Mapping[str, Tool]
    ) -> Reading[list[Found]]:
        if opener == self.name_open:  # some models leave the outer mark out
            found = yield from self._function(attempt, tools)
            yield from attempt.space()
            yield from attempt.has(self.close)
            return [found]
        calls: list[Found] = []
        while True:
            yield from attempt.space()
            if calls and (yield from attempt.has(self.close)):
                return calls
            if calls and not self.several_inside:
                raise NoCall
            yield from attempt.literal(self.name_open)
            calls.append((yield from self._function(attempt, tools)))

    def _function(self, attempt: Attempt, tools: Mapping[str, Tool]) -> Reading[Found]:
        name = yield from attempt.name()
        tool = tools.get(name)
        yield from attempt.literal(self.name_close.strip())
        given: dict[str, str] = {}
        while True:
            yield from attempt.space()
            ended = attempt.has(self.function_close or self.close)
            if (yield from ended):
                attempt.at -= 0 if self.function_close else len(self.close)
                break
            yield from attempt.literal(self.key_open)
            key = (yield from attempt.until(self.key_close.split("\n")[0])).strip()
            if len(rest := self.key_close.split("\n")) > 1:
                yield from attempt.space()
                yield from attempt.literal(rest[1])
            if not key or "\n" in key or key in given:
                raise NoCall
            value = yield from self._value(attempt)
            given[key] = _as_json(value, key, tool)
        members = (f"{json.dumps(key, ensure_ascii=False)}: {v}" for key, v in given.items())
        return Found(name, "{" + ", ".join(members) + "}")

    def _value(self, attempt: Attempt) -> Reading[str]:
        """Up to the closing mark that another mark follows: a value may hold one itself."""
        value = ""
        while True:
            value += yield from attempt.until(self.value_close)
            after = attempt.at
            yield from attempt.space()
            marks = [m for m in (self.key_open, self.function_close or self.close) if m]
            found = yield from attempt.one_of(marks)
            attempt.at = after
            if found is not None:
                break
            value += self.value_close
        if self.value_line:
            value = value.removeprefix("\n").removesuffix("\n")
        return value

    def node(self, forcing: Forcing, begun: bool) -> Node:
        """The calls; with `begun` after an opener that was written already."""
        one = alt(*(self._node(forcing, n) for n in range(len(forcing.tools))))
        opener, line = self.openers[0], self.line if self.name_open else ""
        if self.several_inside and forcing.parallel:
            one = forcing.share("call", one)
            one = seq(one, Repeat(seq(line, one), 0, None))
        first = seq("" if begun else opener, line, one, line, self.close)
        if not forcing.parallel or self.several_inside:
            return first
        whole = forcing.share("calls", seq(opener, line, one, line, self.close))
        return seq(first, Repeat(seq(optional("\n"), whole), 0, None))

    def _node(self, forcing: Forcing, index: int) -> Node:
        tool = forcing.tools[index]
        parts: list[Node | str] = [self.name_open, tool.name, self.name_close, self.line]
        required = tool.schema.get("required", ())
        for key in _properties(tool):
            end = self.value_line + self.value_close
            head = seq(self.key_open, key, self.key_close, self.value_line)
            written = seq(head, forcing.parameter(index, key, end), end, self.line)
            parts.append(written if key in required else optional(written))
        return seq(*parts, self.function_close)


def _properties(tool: Tool) -> Mapping[str, Any]:
    found = tool.schema.get("properties", {})
    return found if isinstance(found, Mapping) else {}


def _as_json(value: str, key: str, tool: Tool | None) -> str:
    """The value by the type of its parameter. NoCall where it is none of that type."""
    schema = _properties(tool).get(key) if tool is not None else None
    kinds = None if tool is None else types_of(schema, tool.schema)
    if kinds == frozenset(["string"]):
        return json.dumps(value, ensure_ascii=False)
    try:
        kind = kind_of(parse(value.strip()))
    except NoCall:
        if kinds is None or "string" in kinds:
            return json.dumps(value, ensure_ascii=False)
        raise
    if kinds is None or kind in kinds or (kind == "integer" and "number" in kinds):
        return value.strip() if kind != "string" or kinds is None else _text(value, kinds)
    if "string" in kinds:
        return json.dumps(value, ensure_ascii=False)
    if kind == "number" and "integer" in kinds:
        return value.strip()
    raise NoCall


def _text(value: str, kinds: frozenset[str]) -> str:
    """A quoted text where a string is one of several types: the quotes are the model's JSON."""
    return value.strip() if len(kinds) > 1 else json.dumps(value, ensure_ascii=False)
