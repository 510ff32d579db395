"""Groups of commands: with a default, without one, by help and by the shell's completion."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from localllm import cli as program
from localllm.commands import Entry, LazyGroup, lazy, leaves
from localllm.registry import Model, Registry
from tests.conftest import Done

Cli = Callable[..., Done]

PLAIN = Entry(
    "endpoint", "", "Servers elsewhere.", "Run models",
    (Entry("list", "models.cli:list_command", "List the models of the registry."),
     Entry("path", "models.cli:path_command", "Print the path of a model's file.")),
)  # fmt: skip


def test_leaves_are_what_the_user_types() -> None:
    inner = Entry("b", "m:f", "")
    table = (Entry("a", "m:a", "", "", (inner,)), Entry("g", "", "", "", (inner,)), inner)
    assert [name for name, _ in leaves(table)] == ["a", "a b", "g b", "b"]


def test_a_model_beats_no_subcommand_and_a_subcommand_beats_a_model(
    cli: Cli, tiny_model: Model, registry: Registry
) -> None:
    registry.set_alias("history", tiny_model)
    small = ("-p", "8", "-n", "0", "-r", "1", "--json")
    assert cli("bench", "history", "--json").json["command"] == "bench history"
    assert cli("bench", "run", "history", *small).data[0]["model"] == "org/tiny"
    assert cli("bench", "tiny", *small).json["command"] == "bench"
    assert cli("bench", *small, "history").data[0]["model"] == "org/tiny"  # options stand first


def test_help_of_a_default_names_its_commands(cli: Cli) -> None:
    out = cli("bench", "--help").out
    assert "--n-prompt" in out
    for name in ("history", "compare", "run"):
        assert f"bench {name}" in out
    assert "--n-prompt" not in cli("bench", "history", "--help").out


def test_a_plain_group(cli: Cli, tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "COMMANDS", (*program.COMMANDS, PLAIN))
    done = cli("endpoint", "path", "tiny", "--json")
    assert (done.exit_code, done.json["command"]) == (0, "endpoint path")
    assert "Print the path" in cli("endpoint", "--help").out
    nothing = cli("endpoint")
    assert nothing.exit_code == 2
    assert nothing.err.splitlines()[-1] == "  try: localllm endpoint --help"
    unknown = cli("endpoint", "nothing")
    assert unknown.exit_code == 2
    assert "nothing" in unknown.err


def completions(words: str) -> set[str]:
    """What bash would offer for the last of `words`, which may be empty."""
    env = {
        **os.environ, "_LOCALLLM_COMPLETE": "complete_bash", "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['localllm']\n"
         "from localllm.cli import main; main()"],
        capture_output=True, text=True, env=env, check=False,
    )  # fmt: skip
    assert not done.stderr
    return set(done.stdout.split())


def test_completion(tiny_model: Model) -> None:
    first = completions("localllm bench ")
    assert {"history", "compare", "run", "org/tiny"} <= first
    assert completions("localllm bench hi") == {"history"}
    assert "--n-prompt" in completions("localllm bench --n-")
    assert completions("localllm bench run ") == {"org/tiny"}
    assert "--n-prompt" in completions("localllm bench org/tiny --n-")
    assert "--n-prompt" not in completions("localllm bench history --")


def test_a_group_imports_nothing() -> None:
    broken = Entry("a", "no.such:thing", "", "", (Entry("b", "no.other:thing", "B."),))
    group = lazy(broken)
    assert isinstance(group, LazyGroup)
    assert group.list_commands(None) == ["run", "b"]
