"""The one place where output leaves the program: for people or as one JSON document.

stdout is data, stderr is everything else. A command shows one result; what it warned of
stands beside it in the JSON document.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TextIO

from localllm.errors import ExitCode, LocalLLMError
from localllm.refs import ModelRef
from localllm.ui import render
from localllm.ui.progress import Progress, ProgressMode, make
from localllm.ui.view import Note, View, parts

SCHEMA = 1


class Sink:
    """Made once a run. `command` is what the user typed after the program's name."""

    def __init__(
        self,
        command: str,
        *,
        as_json: bool = False,
        progress: ProgressMode = "auto",
        verbose: bool = False,
        no_color: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.command = command
        self.as_json = as_json
        self.verbose = verbose
        self.exit_code = ExitCode.OK
        self._out = sys.stdout if stdout is None else stdout
        self._err = sys.stderr if stderr is None else stderr
        self._no_color = no_color
        self._warnings: list[str] = []
        self._shown = False
        self.progress: Progress = make(progress, self._err, no_color)

    @property
    def is_terminal(self) -> bool:
        """True where a person reads stdout."""
        return not self.as_json and self._out is not None and self._out.isatty()

    @property
    def stdout(self) -> TextIO:
        """Where data goes, for what draws an answer while it comes."""
        return self._out

    @property
    def no_color(self) -> bool:
        return self._no_color

    def show(
        self,
        data: Any,
        view: Callable[[Any], View] | None = None,
        *,
        ok: bool = True,
        exit_code: ExitCode = ExitCode.OK,
        error: LocalLLMError | None = None,
    ) -> None:
        """The command's result. `exit_code` counts when `ok` is false.

        A result that is a failure (a gate, damaged files) shows its data all the same;
        `error` then says in one line what failed.
        """
        self._shown = True
        self.exit_code = ExitCode.OK if ok else (error.exit_code if error else exit_code)
        if self.as_json:
            self._document(ok, data, error)
            return
        if view is not None and self._out is not None:
            self._draw(view(data))
        if error is not None:
            self._say_error(error)

    def _draw(self, view: View) -> None:
        if self._out.isatty():
            render.rich(view, self._out, self._no_color)
        else:
            shown = [part for part in parts(view) if not isinstance(part, Note)]
            for line in render.plain(shown):
                self._out.write(line + "\n")
            for part in parts(view):
                if isinstance(part, Note):
                    self.note(part.text)
        self._out.flush()

    def present(self, view: View) -> None:
        """Something for people on the way to the result (a step's table); not in JSON."""
        if not self.as_json and self._out is not None:
            self._draw(view)

    def write(self, text: str) -> None:
        """Raw text to stdout at once (a streamed answer); nothing in JSON mode."""
        if not self.as_json and self._out is not None:
            self._out.write(text)
            self._out.flush()

    def aside(self, text: str) -> None:
        """Raw text to stderr at once (what a model thinks); nothing in JSON mode."""
        if not self.as_json and self._err is not None:
            self._err.write(text)
            self._err.flush()

    def note(self, text: str) -> None:
        """A sentence for people, on stderr; not part of the JSON document."""
        if self._err is not None and not self.as_json:
            print(text, file=self._err, flush=True)

    def warn(self, text: str) -> None:
        """Something the user should know; in JSON it stands in `warnings`."""
        self._warnings.append(text)
        if self._err is not None and not self.as_json:
            print(f"warning: {text}", file=self._err, flush=True)

    def fail(self, error: LocalLLMError) -> ExitCode:
        """Say the error that ended the run: one line and the hint, or the JSON document."""
        self.exit_code = error.exit_code
        if self._shown:  # the one document is out; only the status can still say it
            self._say_error(error)
        elif self.as_json:
            self._document(False, None, error)
        else:
            self._say_error(error)
        return self.exit_code

    def _say_error(self, error: LocalLLMError) -> None:
        if self._err is None:
            return
        print(f"error: {_one_line(error.message)}", file=self._err)
        if error.hint:
            print(f"  try: {_one_line(error.hint)}", file=self._err)
        self._err.flush()

    def _document(self, ok: bool, data: Any, error: LocalLLMError | None) -> None:
        document = {
            "schema": SCHEMA,
            "command": self.command,
            "ok": ok,
            "data": to_json(data),
            "warnings": self._warnings,
            "error": None
            if error is None
            else {"kind": error.kind, "message": error.message, "hint": error.hint},
        }
        self._shown = True
        if self._out is not None:
            self._out.write(json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n")
            self._out.flush()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def to_json(value: Any) -> Any:
    """A result as JSON values: dataclasses by field, enums by value, paths and refs as text."""
    if value is None or isinstance(value, bool | int | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type | ModelRef):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(v) for v in value]
    if isinstance(value, Enum):
        return to_json(value.value)
    if isinstance(value, Path | ModelRef):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def close_quietly() -> None:
    """After the reader of our stdout went away: let the interpreter exit without a word."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                os.dup2(devnull, stream.fileno())
            except (OSError, ValueError):
                continue
