"""Go's text/template, read into a tree."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from localllm.errors import UsageProblem
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

MAX_CHARS = 128 * 1024
_MAX_DEPTH = 60


_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<raw>`[^`]*`)
    |(?P<number>[+-]?[0-9]+(?:\.[0-9]+)?(?![A-Za-z0-9_.]))
    |(?P<path>\$?[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*
      |\$(?:\.[A-Za-z_][A-Za-z0-9_]*)+|\$|(?:\.[A-Za-z_][A-Za-z0-9_]*)+|\.)
    |(?P<mark>:=|=|\||\(|\)|,))""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "a": "\a", "b": "\b",
            "f": "\f", "v": "\v"}  # fmt: skip


def parse_template(text: str) -> tuple[Node, ...]:
    """The tree of a template. Raises UsageProblem with the line of what cannot be read or used."""
    if len(text) > MAX_CHARS:
        raise UsageProblem(f"the template has {len(text)} characters; at most {MAX_CHARS}")
    parser = _Blocks(_pieces(text))
    nodes, ended = parser.block(0)
    if ended:
        refuse(f"{ended!r} without its beginning", parser.line)
    return nodes


def refuse(why: str, line: int) -> NoReturn:
    raise refusal(why, line)


def refusal(why: str, line: int) -> UsageProblem:
    return UsageProblem(
        f"line {line} of the template: {why}",
        "leave TEMPLATE out to use the model's own, or give a Jinja one: --template FILE",
    )


@dataclass(frozen=True)
class _Piece:
    """Text, or what stands in a tag."""

    text: str
    is_tag: bool
    line: int


def _pieces(text: str) -> list[_Piece]:
    """Text and tags in turn; `{{-` and `-}}` trim white space, comments are gone."""
    text = text.replace("\r\n", "\n")
    found: list[_Piece] = []
    at = line = 0
    line = 1
    trim = False
    while True:
        start = text.find("{{", at)
        end = len(text) if start < 0 else start
        between = text[at:end]
        trims_left = start >= 0 and re.match(r"\{\{-[ \t\r\n]", text[start : start + 4]) is not None
        shown = between.lstrip(" \t\r\n") if trim else between
        shown = shown.rstrip(" \t\r\n") if trims_left else shown
        if shown:
            found.append(_Piece(shown, False, line))
        line += between.count("\n")
        if start < 0:
            return found
        inner, at, trim = _tag(text, start + (3 if trims_left else 2), line)
        if inner:
            found.append(_Piece(inner, True, line))
        line += text.count("\n", start, at)


def _tag(text: str, at: int, line: int) -> tuple[str, int, bool]:
    """What stands in the tag that begins before `at`, where it ends, and whether it trims."""
    comment = re.compile(r"[ \t\r\n]*/\*.*?\*/[ \t\r\n]*?( -)?\}\}", re.DOTALL).match(text, at)
    if comment is not None:
        return "", comment.end(), text.endswith("-}}", 0, comment.end())
    start = at
    while at < len(text):
        if text.startswith("}}", at):
            inner = text[start:at]
            trim = re.search(r"[ \t\r\n]-\Z", inner) is not None
            return (inner[:-1] if trim else inner).strip(), at + 2, trim
        match = re.compile(r'"(?:[^"\\\n]|\\.)*"|`[^`]*`').match(text, at)
        at = match.end() if match else at + 1
    refuse("a {{ without its }}", line)


class _Blocks:
    def __init__(self, pieces: list[_Piece]) -> None:
        self.pieces, self.at, self.line = pieces, 0, 1

    def block(self, depth: int) -> tuple[tuple[Node, ...], str]:
        """Nodes up to the end, or to `end` or `else ...`, which is given back."""
        if depth > _MAX_DEPTH:
            refuse(f"blocks deeper than {_MAX_DEPTH}", self.line)
        nodes: list[Node] = []
        while self.at < len(self.pieces):
            piece = self.pieces[self.at]
            self.at, self.line = self.at + 1, piece.line
            if not piece.is_tag:
                nodes.append(TextNode(piece.text))
                continue
            word = re.match(r"[A-Za-z]*", piece.text)
            name = word[0] if word else ""
            if name in ("end", "else"):
                return tuple(nodes), piece.text
            if name in ("if", "with", "range"):
                nodes.append(self.branch(name, piece.text[len(name) :], depth))
            elif name in ("break", "continue"):
                nodes.append(Jump(name))
            elif name in ("define", "template", "block"):
                refuse(f"{{{{ {name} }}}} is not supported", piece.line)
            else:
                nodes.append(Action(parse_pipeline(piece.text, piece.line), piece.line))
        return tuple(nodes), ""

    def branch(self, kind: str, condition: str, depth: int) -> Branch:
        line = self.line
        pipeline = parse_pipeline(condition, line)
        body, ended = self.block(depth + 1)
        other: tuple[Node, ...] = ()
        if ended.startswith("else"):
            rest = ended[4:].strip()
            nested = re.match(r"(if|with)\b", rest)
            if nested:
                other = (self.branch(nested[1], rest[len(nested[1]) :], depth + 1),)
                return Branch(kind, pipeline, body, other, line)
            if rest:
                refuse(f"{{{{ else {rest[:30]} }}}} is not supported", self.line)
            other, ended = self.block(depth + 1)
        if ended != "end":
            refuse(f"{{{{ {kind} }}}} without its {{{{ end }}}}", line)
        return Branch(kind, pipeline, body, other, line)


def parse_pipeline(text: str, line: int) -> Pipeline:
    """`$x := f a b | g`"""
    tokens: list[tuple[str, str]] = []
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            refuse(f"{text[at:].strip()[:30]!r} is not supported", line)
        tokens.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
        if tokens[-1][0] == "mark" and tokens[-1][1] == ")" and text[at : at + 1] == ".":
            fields = re.compile(r"(?:\.[A-Za-z_]\w*)+").match(text, at)
            if fields is not None:
                tokens.append(("fields", fields[0]))
                at = fields.end()
    reader = _Tokens(tokens, line)
    pipeline = reader.pipeline()
    if reader.at < len(tokens):
        refuse(f"{tokens[reader.at][1]!r} in an unexpected place", line)
    return pipeline


class _Tokens:
    def __init__(self, tokens: list[tuple[str, str]], line: int) -> None:
        self.tokens, self.line, self.at, self.depth = tokens, line, 0, 0

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def pipeline(self) -> Pipeline:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            refuse(f"brackets deeper than {_MAX_DEPTH}", self.line)
        variables, declares = self.assigned()
        stages = [self.command()]
        while self.peek() == ("mark", "|"):
            self.at += 1
            stages.append(self.command())
        self.depth -= 1
        return Pipeline(tuple(stages), variables, declares)

    def assigned(self) -> tuple[tuple[str, ...], bool]:
        """Variables in front of `:=` or `=`, if there are any."""
        start, names = self.at, []
        while self.peek()[0] == "path" and re.fullmatch(r"\$\w+", self.peek()[1]):
            names.append(self.peek()[1])
            self.at += 1
            if self.peek() == ("mark", ","):
                self.at += 1
                continue
            if self.peek() in (("mark", ":="), ("mark", "=")):
                declares = self.peek()[1] == ":="
                self.at += 1
                return tuple(names), declares
            break
        self.at = start
        return (), False

    def command(self) -> Expression:
        kind, text = self.peek()
        if kind == "path" and text[0] not in ".$" and text not in ("true", "false", "nil"):
            self.at += 1
            arguments: list[Expression] = []
            while self.peek()[0] in ("string", "raw", "number", "path") or self.peek()[1] == "(":
                arguments.append(self.operand())
            if "." in text:
                refuse(f"{text!r} is not supported", self.line)
            return Call(text, tuple(arguments))
        return self.operand()

    def operand(self) -> Expression:
        kind, text = self.peek()
        self.at += 1
        if kind == "string":
            return Literal(_unescaped(text[1:-1], self.line))
        if kind == "raw":
            return Literal(text[1:-1])
        if kind == "number":
            return Literal(float(text) if "." in text else int(text))
        if kind == "mark" and text == "(":
            inner = self.pipeline()
            if self.peek() != ("mark", ")"):
                refuse("a ( without its )", self.line)
            self.at += 1
            fields: tuple[str, ...] = ()
            if self.peek()[0] == "fields":
                fields = tuple(self.peek()[1].split(".")[1:])
                self.at += 1
            return Path(inner, fields)
        if kind == "path" and text in ("true", "false", "nil"):
            return Literal({"true": True, "false": False, "nil": None}[text])
        if kind == "path" and text[0] in ".$":
            head, *fields_ = text.split(".")
            return Path(head or ".", tuple(f for f in fields_ if f))
        if kind == "path":  # a function without arguments, inside a command
            return Call(text, ())
        refuse(f"{text or 'an empty tag'!r} is not supported", self.line)


def _unescaped(text: str, line: int) -> str:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] in "xuU":
            return chr(int(code[1:], 16))
        if code not in _ESCAPES:
            refuse(f"the escape \\{code} is not supported", line)
        return _ESCAPES[code]

    return re.sub(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|.)", one, text, flags=re.DOTALL)
