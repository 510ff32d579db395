"""The tree of a Go template, written as Jinja."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from localllm.modelfile.gonodes import (
    Action,
    Branch,
    Call,
    Expression,
    Jump,
    Literal,
    Node,
    Path,
    Pipeline,
    TextNode,
)
from localllm.modelfile.gotemplate import refusal, refuse

# What the template sees of the conversation
_ROOT = {
    "System": "system", "Messages": "messages", "Tools": "tools", "Prompt": "prompt",
    "Response": "response", "Suffix": "suffix", "Think": "think", "ThinkLevel": "think_level",
    "IsThinkSet": "is_think_set", "Query": "query", "Document": "document",
    "Instruction": "instruction",
}  # fmt: skip
_MAPPINGS = ("Properties", "Arguments")  # what `range` goes through by name
_COMPARED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


class Translation:
    """One walk over the tree. Variables live in one namespace, each declaration under a name of
    its own; `dot` is the Jinja expression of what `.` is."""

    def __init__(self) -> None:
        self.count = 0
        self.line = 1
        self.dots = ["root"]
        self.scopes: list[dict[str, str]] = [{}]

    def body(self, nodes: Sequence[Node]) -> str:
        return "{%- set v = namespace() -%}" + self.nodes(nodes)

    def nodes(self, nodes: Sequence[Node]) -> str:
        self.scopes.append({})
        written = "".join(map(self.node, nodes))
        self.scopes.pop()
        return written

    def node(self, node: Node) -> str:
        if isinstance(node, Action | Branch):
            self.line = node.line
        match node:
            case TextNode():
                return "{{ " + _string(node.text) + " }}"
            case Jump():
                return f"{{%- {node.kind} -%}}"
            case Action():
                if node.pipeline.variables:
                    return self.assign(node.pipeline)
                return "{{ " + self.shown(node.pipeline) + " }}"
            case Branch("range"):
                return self.range(node)
            case Branch():
                return self.branch(node)

    def branch(self, node: Branch) -> str:
        """if and with. Variables of the condition live in both of its parts."""
        self.scopes.append({})
        before = self.assign(node.pipeline) if node.pipeline.variables else ""
        value = self.value(node.pipeline)
        if node.kind == "with":
            self.count += 1
            before += f"{{%- set v.w{self.count} = {value} -%}}"
            value = f"v.w{self.count}"
            self.dots.append(value)
        body = self.nodes(node.body)
        if node.kind == "with":
            self.dots.pop()
        other = f"{{%- else -%}}{self.nodes(node.other)}" if node.other else ""
        self.scopes.pop()
        return f"{before}{{%- if {value} -%}}{body}{other}{{%- endif -%}}"

    def range(self, node: Branch) -> str:
        self.scopes.append({})
        value = self.value(node.pipeline)
        last = node.pipeline.stages[-1]
        by_name = isinstance(last, Path) and last.fields[-1:] and last.fields[-1] in _MAPPINGS
        self.count += 1
        item = f"d{self.count}"
        key, source = "loop.index0", f"({value} or [])"
        head = f"for {item} in {source}"
        if by_name:
            key = f"k{self.count}"
            head = f"for {key}, {item} in ({value} or {{}}).items()"
        sets = ""
        names = node.pipeline.variables
        if len(names) > 2:
            refuse("range with more than two variables is not supported", self.line)
        bound = [key, item] if len(names) == 2 else [item]
        for name, what in zip(names, bound, strict=False):
            sets += f"{{%- set v.{self.declare(name)} = {what} -%}}"
        self.dots.append(item)
        body = self.nodes(node.body)
        self.dots.pop()
        self.scopes.pop()
        other = f"{{%- else -%}}{self.nodes(node.other)}" if node.other else ""
        return f"{{%- {head} -%}}{sets}{body}{other}{{%- endfor -%}}"

    def assign(self, pipeline: Pipeline) -> str:
        (name, *more) = pipeline.variables
        if more:
            refuse("two variables outside of range", self.line)
        value = self.value(pipeline)
        target = self.declare(name) if pipeline.declares else self.known(name)
        return f"{{%- set v.{target} = {value} -%}}"

    def declare(self, name: str) -> str:
        self.count += 1
        mangled = f"x{self.count}_{name[1:]}"
        self.scopes[-1][name] = mangled
        return mangled

    def known(self, name: str) -> str:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        raise refusal(f"{name} is used before it is set", self.line)

    def shown(self, pipeline: Pipeline) -> str:
        """A value as Go writes it."""
        only = pipeline.stages[-1]
        if (
            isinstance(only, Path)
            and only.fields
            and only.fields[-1] in ("Content", "Role", *_TEXT)
        ):
            return self.value(pipeline)
        if isinstance(only, Call) and only.function in ("json", "printf", "print", "currentDate"):
            return self.value(pipeline)
        return f"go_text({self.value(pipeline)})"

    def value(self, pipeline: Pipeline) -> str:
        """A Jinja expression, in brackets where it needs them."""
        result = self.expression(pipeline.stages[0], None)
        for stage in pipeline.stages[1:]:
            if not isinstance(stage, Call):
                refuse("a pipe into what is no function", self.line)
            result = self.expression(stage, result)
        return result

    def expression(self, node: Expression, piped: str | None) -> str:
        match node:
            case Literal():
                return _literal(node.value)
            case Path():
                return self.path(node)
            case Call("printf", (Literal(str() as form), *values)):
                shown = [self.expression(value, None) for value in values]
                return self.printf(form, shown + ([piped] if piped is not None else []))
            case Call():
                arguments = [self.expression(a, None) for a in node.arguments]
                return self.call(node.function, arguments + ([piped] if piped is not None else []))

    def path(self, node: Path) -> str:
        fields = list(node.fields)
        if isinstance(node.root, Pipeline):
            found = self.value(node.root)
        elif node.root == ".":
            found = self.dots[-1]
        elif node.root == "$":
            found = "root"
        else:
            found = f"v.{self.known(node.root)}"
        if found == "root" and fields:
            if fields[0] not in _ROOT:
                refuse(f".{fields[0]} is nothing that a template is given", self.line)
            found = f"root.{_ROOT[fields.pop(0)]}"
        return found + "".join(f".{_field(name)}" for name in fields)

    def call(self, name: str, arguments: list[str]) -> str:
        if name in _COMPARED and len(arguments) >= 2:
            first, *rest = arguments
            tests = [f"{first} {_COMPARED[name]} {other}" for other in rest]
            if len(tests) == 1 or name == "eq":
                return f"({' or '.join(tests)})"
        match name, arguments:
            case (("and" | "or"), [_, *_]):
                return f"({f' {name} '.join(arguments)})"
            case "not", [one]:
                return f"(not {one})"
            case "len", [one]:
                return f"(({one} or []) | length)"
            case "slice", [one, *ends] if len(ends) <= 2:
                start, end = [*ends, "", ""][:2]
                return f"({one})[{start}:{end}]"
            case "index", [one, *keys] if keys:
                return f"({one})" + "".join(f"[{key}]" for key in keys)
            case "json", [one]:
                return f"go_json({one})"
            case "print", [_, *_]:
                return "(" + " ~ ".join(f"go_text({one})" for one in arguments) + ")"
            case "currentDate", []:
                return "strftime_now('%Y-%m-%d')"
        raise refusal(
            f"the function {name!r} with {len(arguments)} arguments is not supported", self.line
        )

    def printf(self, form: str, values: list[str]) -> str:
        """%s, %d, %v and %%."""
        parts: list[str] = []
        rest = list(values)
        for piece in re.split(r"(%.)", form):
            if piece in ("%s", "%d", "%v") and rest:
                parts.append(f"go_text({rest.pop(0)})")
            elif piece == "%%":
                parts.append(_string("%"))
            elif piece.startswith("%"):
                refuse(f"{piece!r} of printf is not supported", self.line)
            elif piece:
                parts.append(_string(piece))
        return "(" + " ~ ".join(parts or ['""']) + ")"


_TEXT = ("System", "Prompt", "Response", "Suffix", "Name", "Description", "Thinking")


def _field(name: str) -> str:
    """ToolCallID -> tool_call_id, as chat messages have it."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _literal(value: str | int | float | bool | None) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"({value})"


def _string(text: str) -> str:
    """A Jinja string, which has Python's escapes; no braces that could end the tag."""
    return (
        json.dumps(text, ensure_ascii=False)
        .replace("{", "\\x7b")
        .replace("}", "\\x7d")
        .replace("%", "\\x25")
    )
