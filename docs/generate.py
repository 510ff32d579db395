"""Write docs/cli.md from the code. A test fails when the page is stale.

python docs/generate.py
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import typer

from localllm import cli

PAGE = Path(__file__).with_name("cli.md")


def page() -> str:
    """The whole page: every command with its arguments and options."""
    lines = [
        "# Commands",
        "",
        "Written by `python docs/generate.py` from the code; do not edit.",
        "",
        "Every command also takes `--json` (one JSON document on stdout), `--progress"
        " auto|plain|json|none` (on stderr), `--verbose` (llama.cpp's own log lines) and `--help`.",
        "Exit codes: [exit-codes.md](exit-codes.md).",
        "",
    ]
    panel = None
    for entry in cli.COMMANDS:
        if entry.panel != panel:
            panel = entry.panel
            lines += [f"## {panel}", ""]
        lines += [line for name, one in cli.leaves([entry]) for line in _command(name, one)]
    return "\n".join(lines).rstrip() + "\n"


def _command(name: str, entry: cli.Entry) -> list[str]:
    """`name` is what the user types: "bench", "bench history"."""
    command = cli.load(entry)
    context = typer.Context(command, info_name=name, parent=None)
    usage = command.get_usage(context).split(None, 1)[1].replace("\n", " ")
    lines = [f"### localllm {name}", "", inspect.cleandoc(command.help or entry.help), ""]
    lines += ["```", f"localllm {' '.join(usage.split())}", "```", ""]
    rows = [row for p in command.params if (row := _parameter(p, context))]
    if rows:
        lines += ["| | |", "| --- | --- |", *rows, ""]
    return lines


_SHARED = {"as_json", "progress_mode", "verbose"}


def _parameter(parameter: Any, context: Any) -> str | None:
    if parameter.name in _SHARED or getattr(parameter, "hidden", False):
        return None
    record = parameter.get_help_record(context)
    if record is None:
        return None
    name, text = (" ".join(str(part).split()).replace("|", "\\|") for part in record)
    return f"| `{name}` | {text} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
