"""Calls as Python writes them: `[f(a=1, b="x"), g()]` (Llama 4, LFM2)."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from localllm.grammars.nodes import (
    Node,
    Repeat,
    alt,
    seq,
)
from localllm.toolcalls.calls import Found, Tool
from localllm.toolcalls.forcing import Forcing
from localllm.toolcalls.reading import Attempt, NoCall, Reading

_MARK = re.compile(r"[\"'()\[\]{}]")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_WORDS = {"true": "true", "false": "false", "null": "null", "none": "null"}
_MAX_DEPTH = 60


@dataclass(frozen=True)
class PythonCalls:
    """A list of calls with keyword arguments. `bare`: it may only begin an answer."""

    openers: tuple[str, ...]
    close: str = ""
    bare: bool = False

    def read(
        self, attempt: Attempt, opener: str, tools: Mapping[str, Tool]
    ) -> Reading[list[Found]]:
        if opener == "[":
            attempt.at -= 1
        yield from attempt.space()
        start = attempt.at
        yield from attempt.literal("[")
        yield from self._closing(attempt)
        found = _calls(attempt.text[start : attempt.at])
        if self.close:
            yield from attempt.space()
            yield from attempt.has(self.close)
        return found

    def _closing(self, attempt: Attempt) -> Reading[None]:
        depth, quote = 1, ""
        while depth:
            mark = re.compile(rf"[\\{quote}]") if quote else _MARK
            match = mark.search(attempt.text, attempt.at)
            if match is None:
                attempt.at = len(attempt.text)
                yield from attempt.more()
                continue
            attempt.at = match.end()
            char = match[0]
            if char == "\\":
                while attempt.at >= len(attempt.text):
                    yield from attempt.more()
                attempt.at += 1
            elif char == quote:
                quote = ""
            elif char in "\"'":
                quote = char
            else:
                depth += 1 if char in "([{" else -1
                if depth > _MAX_DEPTH:
                    raise NoCall

    def node(self, forcing: Forcing, begun: bool) -> Node:
        """The calls; with `begun` after an opener that was written already."""
        calls = []
        for n, tool in enumerate(forcing.tools):
            required = tool.schema.get("required", ())
            items = [
                (seq(name, "=", forcing.json_parameter(n, name)), name in required)
                for name in tool.schema.get("properties", {})
                if name.isidentifier()
            ]
            calls.append(seq(tool.name, "(", forcing.listed(items, ", "), ")"))
        one = forcing.share("call", alt(*calls))
        rest = [Repeat(seq(", ", one), 0, None)] if forcing.parallel else []
        return seq("" if begun or self.bare else self.openers[0], "[", one, *rest, "]", self.close)


def _calls(written: str) -> list[Found]:
    try:
        with warnings.catch_warnings():  # of escapes that Python does not know
            warnings.simplefilter("ignore")
            tree = ast.parse(written, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise NoCall from None
    if not isinstance(tree, ast.List) or not tree.elts:
        raise NoCall
    return [_call(node, written) for node in tree.elts]


def _call(node: ast.expr, written: str) -> Found:
    if not isinstance(node, ast.Call) or node.args:
        raise NoCall
    name = _dotted(node.func)
    given: dict[str, str] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in given:
            raise NoCall
        given[keyword.arg] = _json(keyword.value, written)
    members = (f"{json.dumps(key, ensure_ascii=False)}: {v}" for key, v in given.items())
    return Found(name, "{" + ", ".join(members) + "}")


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    raise NoCall


def _json(node: ast.expr, written: str) -> str:
    """A literal as JSON. NoCall for whatever would have to be computed."""
    match node:
        case ast.Constant(value=str() as text):
            return _string(text, ast.get_source_segment(written, node) or "")
        case ast.Constant(value=bool() as truth):
            return "true" if truth else "false"
        case ast.Constant(value=None):
            return "null"
        case ast.Constant(value=int() | float()):
            return _number(node, written)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            return _number(node, written)
        case ast.Name(id=word) if word.lower() in _WORDS:
            return _WORDS[word.lower()]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return "[" + ", ".join(_json(item, written) for item in items) + "]"
        case ast.Dict(keys=keys, values=values):
            pairs = []
            for key, value in zip(keys, values, strict=True):
                if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
                    raise NoCall
                pairs.append(f"{_json(key, written)}: {_json(value, written)}")
            return "{" + ", ".join(pairs) + "}"
    raise NoCall


def _string(text: str, written: str) -> str:
    """The string. JSON's escapes where they are JSON's, as our own grammar writes them."""
    if written.startswith('"'):
        try:
            found = json.loads(written)
            return json.dumps(found, ensure_ascii=False) if isinstance(found, str) else written
        except ValueError:
            pass
    if any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        raise NoCall
    return json.dumps(text, ensure_ascii=False)


def _number(node: ast.expr, written: str) -> str:
    text = ast.get_source_segment(written, node) or ""
    if _NUMBER.fullmatch(text):
        return text
    value = ast.literal_eval(node)
    found = json.dumps(value)
    if not _NUMBER.fullmatch(found):
        raise NoCall
    return found
