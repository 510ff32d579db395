"""What a syntax needs to write its calls as a grammar: names, arguments, ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from localllm.errors import UsageProblem
from localllm.grammars.gbnf import Grammar
from localllm.grammars.nodes import (
    EMPTY,
    Node,
    Ref,
    Repeat,
    alt,
    chars,
    seq,
)
from localllm.grammars.schema import add_schema, add_text
from localllm.grammars.strings import without
from localllm.toolcalls.calls import Tool

_FREE = {"type": "object", "additionalProperties": True}


class Forcing:
    """Tools on their way into a grammar.

    `strict`: a schema that cannot be enforced is an error; otherwise such arguments may be any
    object. `id_length` alphanumerics make an id where the format writes one.
    """

    def __init__(
        self, tools: Sequence[Tool], *, parallel: bool, strict: bool, id_length: int = 0
    ) -> None:
        self.tools = tuple(tools)
        self.parallel = parallel
        self.strict = strict
        self.grammar = Grammar()
        self._id_length = id_length

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(tool.name for tool in self.tools)

    @property
    def writes_ids(self) -> bool:
        return self._id_length > 0

    def arguments(self, index: int) -> Ref:
        """The arguments of tool `index` as a JSON object."""
        return self._schema(index, "#", f"{self.tools[index].name}-args")

    def parameter(self, index: int, name: str, end: str) -> Node:
        """One argument as formats with marks write it: strings plain up to `end`, other values
        as JSON."""
        tool = self.tools[index]
        schema = tool.schema.get("properties", {}).get(name, True)
        kinds = types_of(schema, tool.schema)
        if kinds is None:
            return self.grammar.share("text", without(self.grammar, end))
        if "string" in kinds:
            return self._text(index, name, end)
        return self.json_parameter(index, name)

    def _text(self, index: int, name: str, end: str) -> Node:
        tool = self.tools[index]
        try:
            return add_text(self.grammar, tool.schema, f"{tool.name}-{name}", _place(name), end)
        except UsageProblem as e:
            if self.strict:
                raise UsageProblem(f"tool {tool.name!r}: {e.message}", e.hint) from None
            return self.grammar.share("text", without(self.grammar, end))

    def json_parameter(self, index: int, name: str) -> Node:
        """One argument as JSON."""
        return self._schema(index, _place(name), f"{self.tools[index].name}-{name}")

    def listed(self, items: Sequence[tuple[Node, bool]], comma: str) -> Node:
        """Items in their order with `comma` between; True for those that must be there."""
        nothing_yet: Node = EMPTY
        begun: Node = EMPTY
        for node, needed in reversed(items):
            after = self.share("rest", begun) if begun != EMPTY else EMPTY
            first, following = seq(node, after), seq(comma, node, after)
            if needed:
                nothing_yet, begun = first, following
            else:
                nothing_yet, begun = alt(first, nothing_yet), alt(following, after)
        return nothing_yet

    def _schema(self, index: int, place: str, hint: str) -> Ref:
        tool = self.tools[index]
        try:
            return add_schema(self.grammar, tool.schema, hint, place)
        except UsageProblem as e:
            if self.strict:
                raise UsageProblem(f"tool {tool.name!r}: {e.message}", e.hint) from None
            return add_schema(self.grammar, _FREE if place == "#" else True, hint)

    def call_id(self) -> Node:
        letters = chars("0-9A-Za-z")
        return Repeat(letters, self._id_length or 9, self._id_length or 9)

    def share(self, hint: str, node: Node) -> Ref:
        return self.grammar.share(hint, node)


def _place(name: str) -> str:
    return "#/properties/" + name.replace("~", "~0").replace("/", "~1")


def types_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str] | None:
    """The JSON types that a parameter may have; None where its schema does not say."""
    if not isinstance(schema, Mapping) or depth > 8:
        return None
    if isinstance(reference := schema.get("$ref"), str):
        target: Any = root
        for part in reference.removeprefix("#").strip("/").split("/"):
            target = target.get(part) if isinstance(target, Mapping) else None
        return types_of(target, root, depth + 1)
    given = schema.get("type")
    if isinstance(given, str):
        return frozenset([given, "null"] if schema.get("nullable") is True else [given])
    if isinstance(given, list):
        return frozenset(map(str, given))
    for key in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(key), list):
            kinds = [types_of(option, root, depth + 1) for option in options]
            return None if None in kinds else frozenset().union(*(k for k in kinds if k))
    if isinstance(values := schema.get("enum", [schema["const"]] if "const" in schema else None),
                  list):  # fmt: skip
        return frozenset(map(kind_of, values))
    return None


def kind_of(value: Any) -> str:
    """The JSON type of a value."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    names = {float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")
