"""A Modelfile as a value: what a model is made from and how it wants to be run."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from localllm.modelfile.syntax import Command, fail, read_commands, write_commands

_INTEGERS = frozenset([
    "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "seed", "num_predict",
    "top_k", "repeat_last_n", "mirostat", "draft_num_predict", "num_gqa",
])  # fmt: skip
_NUMBERS = frozenset([
    "temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty",
    "frequency_penalty", "tfs_z", "mirostat_tau", "mirostat_eta",
])  # fmt: skip
_SWITCHES = frozenset([
    "numa", "use_mmap", "use_mlock", "low_vram", "f16_kv", "logits_all", "vocab_only",
    "penalize_newline",
])  # fmt: skip
PARAMETERS = frozenset(["stop"]) | _INTEGERS | _NUMBERS | _SWITCHES
_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")
_VERSION = re.compile(r"v?[0-9]+(?:\.[0-9]+){0,2}(?:[-+][0-9A-Za-z.+-]+)?")


@dataclass(frozen=True)
class Modelfile:
    """What a Modelfile says.

    `base` and `adapters` are references or paths as they stand there. `parameters` has Ollama's
    names, with numbers, switches and the list `stop`; of a name that comes twice the last one
    counts. `template` is a Go template.
    """

    base: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    template: str | None = None
    system: str | None = None
    adapters: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    messages: tuple[tuple[str, str], ...] = ()  # (role, content)
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    draft: str | None = None

    def text(self) -> str:
        """The Modelfile that says so. Raises UsageProblem for a value that it cannot hold."""
        return write_commands(tuple(self._commands()))

    def _commands(self) -> list[Command]:
        found = [Command("FROM", self.base)]
        single = (
            ("TEMPLATE", self.template), ("SYSTEM", self.system), ("RENDERER", self.renderer),
            ("PARSER", self.parser), ("REQUIRES", self.requires), ("DRAFT", self.draft),
        )  # fmt: skip
        found += [Command(name, value) for name, value in single if value is not None]
        found += [Command("ADAPTER", path) for path in self.adapters]
        for key, value in self.parameters.items():
            values = value if isinstance(value, list | tuple) else [value]
            found += [Command("PARAMETER", _written(one), key) for one in values]
        found += [Command("MESSAGE", content, role) for role, content in self.messages]
        found += [Command("LICENSE", text) for text in self.licenses]
        return found


def parse(text: str) -> Modelfile:
    """Read a Modelfile. Raises UsageProblem with the line of what is wrong in it."""
    base: str | None = None
    single: dict[str, str] = {}
    parameters: dict[str, Any] = {}
    adapters: list[str] = []
    licenses: list[str] = []
    messages: list[tuple[str, str]] = []
    for command in read_commands(text):
        match command.name:
            case "FROM":
                if base is not None:
                    fail(command.line, "a second FROM; a model is made from one")
                base = _filled(command)
            case "PARAMETER":
                _set(parameters, command)
            case "MESSAGE":
                messages.append((command.key, command.value))
            case "ADAPTER":
                adapters.append(_filled(command))
            case "LICENSE":
                licenses.append(command.value)
            case "REQUIRES" if not _VERSION.fullmatch(command.value):
                fail(command.line, f"REQUIRES {command.value[:40]!r} is no version like 0.14.0")
            case name:
                single[name.lower()] = command.value
    if base is None:
        fail(0, "it has no FROM line")
    return Modelfile(
        base, parameters, adapters=tuple(adapters), licenses=tuple(licenses),
        messages=tuple(messages), **single,
    )  # fmt: skip


def _filled(command: Command) -> str:
    if not command.value or any(ord(char) < 32 for char in command.value):
        fail(command.line, f"{command.name} names nothing")
    return command.value


def _set(parameters: dict[str, Any], command: Command) -> None:
    key, text = command.key.lower(), command.value
    if key not in PARAMETERS:
        near = difflib.get_close_matches(key, PARAMETERS, n=3)
        fail(command.line, f"unknown parameter {key[:40]!r}"
             + (f"; near: {', '.join(near)}" if near else ""))  # fmt: skip
    if key == "stop":
        parameters["stop"] = [*parameters.get("stop", []), text]
        return
    value = _number(key, text)
    if value is None:
        kind = "a whole number" if key in _INTEGERS else "true or false"
        fail(command.line, f"{key} {text[:40]!r} is not "
             + ("a number" if key in _NUMBERS else kind))  # fmt: skip
    parameters[key] = value


def _number(key: str, text: str) -> int | float | bool | None:
    if key in _SWITCHES:
        word = text.lower()
        return True if word in _TRUE else False if word in _FALSE else None
    if key in _INTEGERS:
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
