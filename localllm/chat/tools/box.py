"""All tools of a conversation, and running what the model calls."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from localllm.chat.files import read_text
from localllm.chat.tools.mcp_server import McpServer
from localllm.chat.tools.python_file import PythonFile, ToolFailed
from localllm.closing import Closing
from localllm.errors import UsageProblem
from localllm.toolcalls import Tool, ToolCall
from localllm.ui.marked import clean_lines

Decision = Literal["yes", "no", "always"]
RESULT_CHARS = 20_000
_SHOWN_CHARS = 200


class Source(Protocol):
    """Where tools come from."""

    tools: tuple[Tool, ...]

    def call(self, name: str, arguments: Mapping[str, Any]) -> str: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class DoneCall:
    """A call and what came of it; `result` is what the model was told."""

    id: str
    name: str
    arguments: str  # JSON
    result: str
    status: Literal["done", "failed", "refused"]

    def __str__(self) -> str:
        short = " ".join(clean_lines(self.result).split())
        short = short if len(short) <= _SHOWN_CHARS else short[: _SHOWN_CHARS - 1] + "…"
        return f"{clean_lines(self.name)}: {short}"


class ToolBox(Closing):
    """Runs calls, each only if `decide` lets it; "always" is not asked again for that tool."""

    def __init__(self, sources: Sequence[Source], decide: Callable[[str], Decision]) -> None:
        """Raises UsageProblem where two tools have one name."""
        self._sources = tuple(sources)
        self.decide = decide
        self._of: dict[str, Source] = {}
        for source in sources:
            for tool in source.tools:
                if tool.name in self._of:
                    raise UsageProblem(f"two tools are called {tool.name!r}")
                self._of[tool.name] = source
        self._always: set[str] = set()

    @property
    def tools(self) -> tuple[Tool, ...]:
        return tuple(tool for source in self._sources for tool in source.tools)

    def run(self, call: ToolCall) -> DoneCall:
        """Ask, run, and what the model is to be told; never raises but for Ctrl-C."""
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError):
            return self._done(call, "error: the arguments are no JSON", "failed")
        if not isinstance(arguments, dict):
            return self._done(call, "error: the arguments are no object", "failed")
        if call.name not in self._of:  # servers elsewhere may call what nobody offered
            known = ", ".join(self._of)
            return self._done(call, f"error: there is no such tool; there are {known}", "failed")
        if not self._allowed(call.name, arguments):
            return self._done(call, "The user did not allow this call.", "refused")
        try:
            result = self._of[call.name].call(call.name, arguments)
        except ToolFailed as error:
            return self._done(call, f"error: {error.message}", "failed")
        if len(result) > RESULT_CHARS:
            left = len(result) - RESULT_CHARS
            result = f"{result[:RESULT_CHARS]}\n(cut off: {left} more characters)"
        return self._done(call, result, "done")

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def _allowed(self, name: str, arguments: Mapping[str, Any]) -> bool:
        if name in self._always:
            return True
        decision = self.decide(shown(name, arguments))
        if decision == "always":
            self._always.add(name)
        return decision != "no"

    def _done(
        self, call: ToolCall, result: str, status: Literal["done", "failed", "refused"]
    ) -> DoneCall:
        return DoneCall(call.id, call.name, call.arguments, result, status)


def shown(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as people read it: every argument whole, since it is what they allow, and nothing in
    it that steers a terminal, which could show another call."""
    inside = ", ".join(
        f"{key if key.isidentifier() else json.dumps(key)}={json.dumps(value)}"
        for key, value in arguments.items()
    )
    return f"{name}({inside})"


def open_tools(
    wanted: Sequence[str], decide: Callable[[str], Decision], timeout_s: float
) -> ToolBox | None:
    """From `FILE.py`, `mcp:COMMAND ARGUMENTS`, or the `.json` that other programs keep MCP servers
    in (an object "mcpServers"). None where nothing is wanted. Raises what these raise."""
    sources: list[Source] = []
    try:
        for text in wanted:
            sources += _sources(text, timeout_s)
        return ToolBox(sources, decide) if sources else None
    except BaseException:
        for source in sources:
            source.close()
        raise


def _sources(text: str, timeout_s: float) -> list[Source]:
    if text.startswith("mcp:"):
        try:
            words = shlex.split(text.removeprefix("mcp:"))
        except ValueError as error:
            raise UsageProblem(f"--tool {text!r} is no command: {error}") from None
        if not words:
            raise UsageProblem("mcp: names no command", "--tool 'mcp:npx some-server'")
        return [McpServer(words, timeout_s)]
    path = Path(text).expanduser()
    if path.suffix == ".json":
        return [
            McpServer(
                [server["command"], *(server.get("args") or [])], timeout_s, server.get("env")
            )
            for server in _servers(path)
        ]
    if path.suffix != ".py":
        raise UsageProblem(
            f"--tool {text!r} is neither a .py file, a .json of MCP servers, nor mcp:COMMAND"
        )
    return [PythonFile(path, timeout_s)]


def _servers(path: Path) -> list[Mapping[str, Any]]:
    try:
        found = json.loads(read_text(path))["mcpServers"]
        servers = list(found.values())
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise UsageProblem(f"{path} has no object 'mcpServers'") from None
    for server in servers:
        if not isinstance(server, Mapping) or not isinstance(server.get("command"), str):
            raise UsageProblem(f"{path}: a server without a command (only stdio servers run here)")
        if not isinstance(server.get("args") or [], list):
            raise UsageProblem(f"{path}: args of {server['command']!r} is no list")
    return servers
