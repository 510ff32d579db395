"""Tools of an MCP server that runs beside us and speaks over its stdin and stdout."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

from localllm.chat.tools.python_file import ToolFailed
from localllm.closing import Closing
from localllm.errors import LocalLLMError, MissingExtra, UsageProblem
from localllm.toolcalls import Tool

_START_S = 60.0


class McpServer(Closing):
    """A server, started with the command and ended with this object."""

    def __init__(
        self, command: Sequence[str], timeout_s: float, env: Mapping[str, str] | None = None
    ) -> None:
        """Raises MissingExtra, UsageProblem for a command that does not start or speak MCP."""
        self._command, self._timeout_s, self._env = tuple(command), timeout_s, env
        _require_mcp()
        self._loop = asyncio.new_event_loop()
        self._ready: Future[tuple[Tool, ...]] = Future()
        self._stop: asyncio.Event | None = None
        self._session: Any = None
        self._thread = threading.Thread(target=self._run, name="localllm-mcp", daemon=True)
        self._thread.start()
        try:
            self.tools = self._ready.result(timeout=_START_S)
        except FutureTimeout:
            self.close()
            raise UsageProblem(f"{self._command[0]} does not answer as an MCP server") from None
        except KeyboardInterrupt:
            self.close()
            raise

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The text of what the tool returns. Raises ToolFailed."""
        future = asyncio.run_coroutine_threadsafe(
            self._session.call_tool(name, dict(arguments)), self._loop
        )
        try:
            result = future.result(timeout=self._timeout_s)
        except FutureTimeout:
            future.cancel()
            raise ToolFailed(f"it took longer than {self._timeout_s:.0f} s") from None
        except KeyboardInterrupt:
            future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - the SDK raises many kinds
            raise ToolFailed(f"{type(error).__name__}: {error}") from None
        text = "\n".join(_text(part) for part in result.content)
        if _either(result, "is_error", "isError"):
            raise ToolFailed(text)
        return text

    def close(self) -> None:
        if self._stop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001 - the SDK wraps failures in groups
            if not self._ready.done():
                self._ready.set_exception(self._failure(error))
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        from mcp import ClientSession, StdioServerParameters, stdio_client

        self._stop = asyncio.Event()
        server = StdioServerParameters(
            command=self._command[0], args=list(self._command[1:]),
            env=dict(self._env) if self._env else None,
        )  # fmt: skip
        with Path(os.devnull).open("w") as quiet:
            async with (
                stdio_client(server, errlog=quiet) as (read, write),
                ClientSession(read, write) as session,
            ):
                await session.initialize()
                self._session = session
                listed = await session.list_tools()
                self._ready.set_result(tuple(map(_tool, listed.tools)))
                await self._stop.wait()

    def _failure(self, error: BaseException) -> LocalLLMError:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        why = " ".join(str(error).split()) or type(error).__name__
        return UsageProblem(f"the MCP server {self._command[0]} does not start: {why}")


def _require_mcp() -> None:
    try:
        import mcp  # noqa: F401 - asked for, not used here
    except ImportError:
        raise MissingExtra(
            "MCP servers need the package mcp", "pip install 'localllm[mcp]'"
        ) from None


def _tool(given: Any) -> Tool:
    schema = _either(given, "input_schema", "inputSchema") or {}
    return Tool(given.name, given.description or "", schema)


def _text(part: Any) -> str:
    text = getattr(part, "text", None)
    return text if isinstance(text, str) else f"({getattr(part, 'type', 'something')} left out)"


def _either(value: Any, new: str, old: str) -> Any:
    """The SDK's names changed from its version 1 to 2."""
    return getattr(value, new, None) if hasattr(value, new) else getattr(value, old, None)
