"""Gemma 4's calls: `<|tool_call>call:name{city:<|"|>Paris<|"|>,days:3}<tool_call|>`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from localllm.grammars.nodes import Node, Repeat, alt, seq
from localllm.toolcalls.calls import Found, Tool
from localllm.toolcalls.forcing import Forcing, types_of
from localllm.toolcalls.reading import Attempt, NoCall, Reading, parse

_OPEN, _CLOSE, _QUOTE = "<|tool_call>call:", "<tool_call|>", '<|"|>'
_SPACE = re.compile(r"[ \t\r\n]*")
_PLAIN = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null")
_KEY = re.compile(r"[^:{}\[\],\"<>]+")
_MAX_DEPTH = 60
_MAX_CLOSES = 50


@dataclass(frozen=True)
class GemmaCalls:
    openers: tuple[str, ...] = (_OPEN,)
    bare: bool = False

    def read(
        self, attempt: Attempt, opener: str, tools: Mapping[str, Tool]
    ) -> Reading[list[Found]]:
        name = yield from attempt.name()
        written = ""
        for _ in range(_MAX_CLOSES):  # a string may hold the closing mark
            written += yield from attempt.until(_CLOSE)
            try:
                return [Found(name, _Values(written).whole())]
            except NoCall:
                written += _CLOSE
        raise NoCall

    def node(self, forcing: Forcing, begun: bool) -> Node:
        """The calls; with `begun` after an opener that was written already."""
        calls = []
        for n, tool in enumerate(forcing.tools):
            required = tool.schema.get("required", ())
            items = [
                (seq(key, ":", _value(forcing, n, key)), key in required)
                for key in tool.schema.get("properties", {})
                if _KEY.fullmatch(key)
            ]
            calls.append(seq(tool.name, "{", forcing.listed(items, ","), "}", _CLOSE))
        one = alt(*calls)
        first = one if begun else seq(_OPEN, one)
        if not forcing.parallel:
            return first
        return seq(first, Repeat(forcing.share("call", seq(_OPEN, one)), 0, None))


def _value(forcing: Forcing, index: int, key: str) -> Node:
    tool = forcing.tools[index]
    schema = tool.schema.get("properties", {}).get(key)
    kinds = types_of(schema, tool.schema)
    value = forcing.parameter(index, key, _QUOTE)
    return seq(_QUOTE, value, _QUOTE) if kinds is None or "string" in kinds else value


class _Values:
    """The arguments of one call as JSON text, numbers as they are written."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0

    def whole(self) -> str:
        self.space()
        if not self.text.startswith("{", self.at):
            raise NoCall
        value = self.value()
        self.space()
        if self.at < len(self.text):
            raise NoCall
        return value

    def value(self) -> str:
        self.space()
        if self.has(_QUOTE):
            return self.string()
        if self.text.startswith('"', self.at):
            return self.quoted()
        if self.has("{"):
            return "{" + ", ".join(self.items("}", named=True)) + "}"
        if self.has("["):
            return "[" + ", ".join(self.items("]", named=False)) + "]"
        match = _PLAIN.match(self.text, self.at)
        if match is None:
            raise NoCall
        self.at = match.end()
        return match[0]

    def items(self, end: str, *, named: bool) -> list[str]:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise NoCall
        found: list[str] = []
        self.space()
        while not self.has(end):
            if found and not self.has(","):
                raise NoCall
            found.append(f"{self.key()}: {self.value()}" if named else self.value())
            self.space()
        self.depth -= 1
        return found

    def key(self) -> str:
        self.space()
        if self.has(_QUOTE):
            key = self.string()
        elif self.text.startswith('"', self.at):
            key = self.quoted()
        else:
            match = _KEY.match(self.text, self.at)
            if match is None:
                raise NoCall
            self.at = match.end()
            key = json.dumps(match[0].strip(), ensure_ascii=False)
        self.space()
        if not self.has(":"):
            raise NoCall
        return key

    def string(self) -> str:
        end = self.text.find(_QUOTE, self.at)
        if end < 0:
            raise NoCall
        value, self.at = self.text[self.at : end], end + len(_QUOTE)
        return json.dumps(value, ensure_ascii=False)

    def quoted(self) -> str:
        match = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL).match(self.text, self.at)
        if match is None:
            raise NoCall
        parse(match[0])
        self.at = match.end()
        return match[0]

    def has(self, mark: str) -> bool:
        there = self.text.startswith(mark, self.at)
        self.at += len(mark) if there else 0
        return there

    def space(self) -> None:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at
