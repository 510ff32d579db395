"""The process that a file of tools runs in: python -m localllm.chat.tools.child FILE

It says what the file offers, one JSON object on a line, then answers a call on each line of its
stdin. What the functions print goes to stderr.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from localllm.chat.tools.describing import describe, fitted, tool_functions

_NAME = "localllm_tools"


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        functions = tool_functions(_loaded(Path(sys.argv[1])))
        tools = [describe(function) for function in functions.values()]
    except BaseException as error:  # noqa: BLE001 - whatever the user's file raises
        _say(answers, {"error": f"{type(error).__name__}: {error}"})
        return
    _say(answers, {"tools": tools})
    for line in requests:
        _say(answers, _answer(functions, json.loads(line)))


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_NAME, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(module)
    return module


def _answer(functions: dict[str, Callable[..., Any]], request: dict[str, Any]) -> dict[str, Any]:
    try:
        function = functions[request["name"]]
        result = function(**fitted(function, request["arguments"]))
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        text = result if isinstance(result, str) else json.dumps(result, default=str)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's code raises
        return {"error": f"{type(error).__name__}: {error}"}
    return {"result": text}


def _say(answers: TextIO, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
