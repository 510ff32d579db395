"""The tree of a Go template: the part of text/template that chat templates of Ollama models use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Literal:
    value: str | int | float | bool | None


@dataclass(frozen=True)
class Path:
    """`.Field.Field`, `$var.Field`, or a pipeline in brackets with fields. `root` "." is what
    the place is about, "$" the whole."""

    root: str | Pipeline
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Call:
    function: str
    arguments: tuple[Expression, ...]


Expression = Literal | Path | Call


@dataclass(frozen=True)
class Pipeline:
    """`stages` from left to right; each later one gets the one before as its last argument.
    `variables` are set to the result, declared anew with `:=`."""

    stages: tuple[Expression, ...]
    variables: tuple[str, ...] = ()
    declares: bool = False


@dataclass(frozen=True)
class TextNode:
    text: str


@dataclass(frozen=True)
class Action:
    pipeline: Pipeline
    line: int = 0


@dataclass(frozen=True)
class Branch:
    """if, with or range."""

    kind: str
    pipeline: Pipeline
    body: tuple[Node, ...]
    other: tuple[Node, ...]
    line: int = 0


@dataclass(frozen=True)
class Jump:
    kind: str  # break or continue


Node = TextNode | Action | Branch | Jump
