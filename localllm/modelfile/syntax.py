"""Ollama's Modelfile as text: commands with their values, as Ollama's own parser reads them.

A line begins a command: letters in any case, white space, a value. A value ends with its line,
unless it opens a quotation mark that the line does not close at its end: then it goes on to the
line that does. `#` begins a comment where a command could begin.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from localllm.errors import UsageProblem

ROLES = ("system", "user", "assistant")
COMMANDS = (
    "FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE", "RENDERER",
    "PARSER", "REQUIRES", "DRAFT",
)  # fmt: skip
_NAME = re.compile(r"[ \t]*([A-Za-z]+)([ \t]|$)")
_WORD = re.compile(r"[ \t]*([A-Za-z0-9_]+)([ \t]|$)")
_LINES = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Command:
    """One command. `key` is the parameter's name or the message's role, else empty."""

    name: str  # one of COMMANDS
    value: str
    key: str = ""
    line: int = 0  # where it begins; 0 where it was not read


def read_commands(text: str) -> tuple[Command, ...]:
    """The commands of a Modelfile, in order. Raises UsageProblem with the line of a mistake."""
    return tuple(_commands(text.removeprefix("\ufeff")))


def _commands(text: str) -> Iterator[Command]:
    lines = _split(text)
    at = 0
    while at < len(lines):
        line, start = lines[at][0], at
        at += 1
        if not line.strip(" \t") or line.lstrip(" \t").startswith("#"):
            continue
        match = _NAME.match(line)
        name = match[1].upper() if match else ""
        if match is None or name not in COMMANDS:
            word = line.split()[0][:40]
            fail(start + 1, f"{word!r} is no command; there are {', '.join(COMMANDS)}")
        rest, key = line[match.end() :], ""
        if name in ("PARAMETER", "MESSAGE"):
            key, rest = _key(name, rest, start + 1)
        value = unquoted(rest)
        written = rest
        while value is None:
            if at == len(lines):
                fail(start + 1, f"the quotation of {name} is never closed")
            written += lines[at - 1][1] + lines[at][0]
            at += 1
            value = unquoted(written)
        if not match[2] or (name in ("PARAMETER", "MESSAGE") and not rest):
            fail(start + 1, f"{name} without a value")
        yield Command(name, value, key, start + 1)


def _split(text: str) -> list[tuple[str, str]]:
    """Lines, each with the line break that ends it."""
    found: list[tuple[str, str]] = []
    at = 0
    for match in _LINES.finditer(text):
        found.append((text[at : match.start()], match[0]))
        at = match.end()
    found.append((text[at:], ""))
    return found


def _key(name: str, rest: str, line: int) -> tuple[str, str]:
    match = _WORD.match(rest)
    what = "parameter" if name == "PARAMETER" else "role"
    if match is None:
        fail(line, f"{name} without the name of a {what}")
    if name == "MESSAGE" and match[1] not in ROLES:
        fail(line, f"MESSAGE {match[1][:40]}: the role is one of {', '.join(ROLES)}")
    return match[1], rest[match.end() :]


def unquoted(written: str) -> str | None:
    """The value that is written so; None while its quotation is open."""
    text = written.strip()
    for mark in ('"""', '"'):
        if text.startswith(mark):
            if len(text) >= 2 * len(mark) and text.endswith(mark):
                return text[len(mark) : -len(mark)]
            return None
    return text


def write_commands(commands: Sequence[Command]) -> str:
    """The text that reads as these commands. Raises UsageProblem for a value that no quotation
    holds."""
    return "".join(f"{_line(command)}\n" for command in commands)


def _line(command: Command) -> str:
    head = f"{command.name} {command.key}".rstrip()
    for written in (command.value, f'"{command.value}"', f'"""{command.value}"""'):
        again = f"{head} {written}\n"
        if written and _reads_as(again, command):
            return again[:-1]
    raise UsageProblem(
        f"a Modelfile cannot hold this value of {head}: it has a line that ends in quotation marks"
    )


def _reads_as(text: str, command: Command) -> bool:
    try:
        found = read_commands(text)
    except UsageProblem:
        return False
    return [(c.name, c.key, c.value) for c in found] == [(command.name, command.key, command.value)]


def fail(line: int, why: str) -> NoReturn:
    raise UsageProblem(f"Modelfile line {line}: {why}" if line else f"the Modelfile: {why}")
