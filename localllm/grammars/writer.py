"""Nodes of a grammar as GBNF text."""

from __future__ import annotations

from localllm.grammars.nodes import Alt, Chars, Node, Ref, Repeat, Seq, Text


class Writer:
    """Nodes as GBNF. `symbols` is what llama.cpp will make of groups and repetitions."""

    def __init__(self) -> None:
        self.symbols = 0

    def write(self, node: Node, inner: bool = False) -> str:
        match node:
            case Text():
                return f'"{"".join(map(_literal, node.text))}"'
            case Chars():
                return f"[{''.join(_span(a, b) for a, b in node.ranges)}]"
            case Ref():
                return node.name
            case Seq():
                if not node.parts:
                    return '""'
                return " ".join(self.write(part, inner=True) for part in node.parts)
            case Alt():
                options = " | ".join(self.write(option) for option in node.options)
                self.symbols += inner
                return f"({options})" if inner else options
            case Repeat():
                return self._repeat(node)

    def _repeat(self, node: Repeat) -> str:
        unit = self.write(node.node, inner=True)
        if isinstance(node.node, Seq | Repeat) or (
            isinstance(node.node, Text) and len(node.node.text) != 1
        ):
            self.symbols += 1
            unit = f"({unit})"
        self.symbols += 1 if node.most is None else node.most - node.least
        match node.least, node.most:
            case 0, None:
                return f"{unit}*"
            case 1, None:
                return f"{unit}+"
            case 0, 1:
                return f"{unit}?"
            case least, None:
                return f"{unit}{{{least},}}"
            case least, most:
                return f"{unit}{{{least}}}" if least == most else f"{unit}{{{least},{most}}}"
        raise AssertionError(node)


_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


def _literal(char: str) -> str:
    return _ESCAPES.get(char) or (_hex(ord(char)) if not char.isprintable() else char)


def _span(first: int, last: int) -> str:
    return _point(first) if first == last else f"{_point(first)}-{_point(last)}"


def _point(code: int) -> str:
    """A character of a class: letters and digits plain, whatever could mean something as hex."""
    char = chr(code)
    return char if char.isascii() and char.isalnum() else _hex(code)


def _hex(code: int) -> str:
    if code < 0x80:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
