"""Help, list and completion stay instant: nothing heavy is imported for them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from localllm import cli

HEAVY = ("llama_cpp", "torch", "numpy", "huggingface_hub", "gguf", "psutil", "pynvml", "jinja2")

_PROBE = """
import sys
from localllm.cli import main
sys.stdout = open(__import__('os').devnull, 'w')
status = main({args!r})
print(status, *sorted(set(m.split('.')[0] for m in sys.modules) & set({heavy!r})), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "args",
    [["--help"], ["list"], ["list", "--json"], ["pull", "--help"], ["chat", "--help"],
     ["fit", "--help"], ["bench", "--help"], ["bench", "history", "--help"], ["--version"]],
)  # fmt: skip
def test_nothing_heavy_is_imported(args: list[str]) -> None:
    code = _PROBE.format(args=args, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split()[-1:] == ["0"], done.stderr


@pytest.mark.parametrize("words", ["localllm show ", "localllm bench "])
def test_completion_imports_nothing_heavy(words: str) -> None:
    env = {"_LOCALLLM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "2"}
    code = "import sys\nsys.argv = ['localllm']\n" + _PROBE.format(args=[], heavy=HEAVY)
    code = code.replace(
        "status = main([])", "try:\n    main([])\nexcept SystemExit: pass\nstatus=0"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env},
        check=True,
    )  # fmt: skip
    assert done.stderr.split()[-1:] == ["0"], done.stderr


@pytest.mark.parametrize(("typed", "entry"), list(cli.leaves(cli.COMMANDS)))
def test_the_table_says_what_the_command_says(typed: str, entry: cli.Entry) -> None:
    import importlib

    module, _, name = entry.target.partition(":")
    function = getattr(importlib.import_module(f"localllm.{module}"), name)
    assert function.__doc__.splitlines()[0] == entry.help


def test_ctrl_c_while_python_reads_the_program_is_no_traceback() -> None:
    code = """
import builtins, runpy
real = builtins.__import__
def interrupted(name, *more, **named):
    if name == "typer":
        raise KeyboardInterrupt
    return real(name, *more, **named)
builtins.__import__ = interrupted
runpy.run_module("localllm", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")
