"""Tools from a Python file, in a child process with a time limit for each call."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from localllm.closing import Closing
from localllm.errors import FileGone, LocalLLMError, UsageProblem
from localllm.toolcalls import Tool

_START_S = 60.0  # the file's own imports may be heavy


class ToolFailed(LocalLLMError):
    """A tool raised, ran too long or went away. Its message goes to the model."""


class PythonFile(Closing):
    """The public functions of a file. Importing it runs it: so that happens in the child."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        """Raises FileGone, UsageProblem for a file that cannot be imported or offers nothing."""
        if not path.is_file():
            raise FileGone(f"there is no file {path}")
        self._path, self._timeout_s = path.absolute(), timeout_s
        self._child: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        try:
            first = self._start()
        except ToolFailed as error:
            raise UsageProblem(f"{path} cannot be used: {error.message}") from None
        if "error" in first:
            raise UsageProblem(f"{path} cannot be used: {first['error']}")
        self.tools = tuple(Tool(**tool) for tool in first["tools"])
        if not self.tools:
            raise UsageProblem(f"{path} has no public functions")

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """What the function returns, as text. Raises ToolFailed."""
        if self._child is None or self._child.poll() is not None:
            self._start()
        assert self._child is not None
        assert self._child.stdin is not None
        request = json.dumps({"name": name, "arguments": dict(arguments)})
        try:
            self._child.stdin.write(request + "\n")
            self._child.stdin.flush()
            answer = self._read(self._timeout_s)
        except BrokenPipeError:
            raise ToolFailed("the process of the tools went away") from None
        except KeyboardInterrupt:
            self._kill()
            raise
        if "error" in answer:
            raise ToolFailed(str(answer["error"]))
        return str(answer["result"])

    def close(self) -> None:
        self._kill()

    def _start(self) -> dict[str, Any]:
        """A new child; what it says first."""
        # Ctrl-C is for us: we end the child
        apart: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "localllm.chat.tools.child", str(self._path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", **apart,
        )  # fmt: skip
        self._lines = queue.Queue()
        threading.Thread(
            target=_pump, args=(self._child, self._lines), name="localllm-tool", daemon=True
        ).start()
        try:
            return self._read(_START_S)
        except KeyboardInterrupt:
            self._kill()
            raise

    def _read(self, timeout_s: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            self._kill()
            raise ToolFailed(f"it took longer than {timeout_s:.0f} s and was ended") from None
        if not line:
            self._kill()
            raise ToolFailed("the process of the tools ended")
        value: dict[str, Any] = json.loads(line)
        return value

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    _close(pipe)
            self._child = None


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except (BrokenPipeError, ValueError):  # what was written and not read is of no use now
        return


def _pump(child: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert child.stdout is not None
    try:
        for line in child.stdout:
            lines.put(line)
    except ValueError:  # closed under us
        pass
    lines.put("")
