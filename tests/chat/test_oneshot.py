"""One question: what is asked, what comes out where, and what a full context does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localllm.chat.piped import PATIENCE_S
from localllm.registry import Model, Registry
from localllm.registry.chats import Chats
from tests.conftest import Done, arrival
from tests.support.scripted import THINKING_CHATML, scripted
from tests.support.tiny_models import tiny_llama

Cli = Callable[..., Done]
GREEDY = ("--temperature", "0", "--max-tokens", "6")
COMMAND = (sys.executable, "-m", "localllm", "chat")


def asked_of(registry: Registry) -> list[str]:
    """What was asked in the conversation held last."""
    chats = Chats.of(registry)
    return [m.content for m in chats.messages(chats.latest().id) if m.role == "user"]


# --- what is asked -------------------------------------------------------------------------


def test_a_prompt_and_a_pipe_are_both_used(
    shell: Cli, tiny_model: Model, registry: Registry
) -> None:
    done = shell("chat", "tiny", "a message for", *GREEDY, "--save", stdin="+ a diff\n")
    assert done.exit_code == 0, done
    assert asked_of(registry) == ["a message for\n\n+ a diff"]


def test_a_file_on_stdin(tiny_model: Model, registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("from a file")
    with (tmp_path / "in.txt").open("rb") as file:
        command = [*COMMAND, "tiny", "sum up", *GREEDY, "--save"]
        done = subprocess.run(command, stdin=file, capture_output=True, check=True)
    assert asked_of(registry) == ["sum up\n\nfrom a file"]
    assert b"nothing came" not in done.stderr


@pytest.mark.parametrize("flag", [[], ["--no-stdin"]])
def test_an_open_silent_pipe_does_not_hang(tiny_model: Model, flag: list[str]) -> None:
    read, write = os.pipe()
    began = time.monotonic()
    done = subprocess.run(
        [*COMMAND, "tiny", "hello", *GREEDY, *flag], stdin=read, capture_output=True, timeout=60,
        check=False,
    )  # fmt: skip
    took = time.monotonic() - began
    os.close(read)
    os.close(write)
    assert done.returncode == 0, done
    assert done.stdout
    assert (b"nothing came from stdin" in done.stderr) is (not flag)
    assert flag or took >= PATIENCE_S


def test_a_slow_pipe_is_waited_for_when_told(tiny_model: Model, registry: Registry) -> None:
    child = subprocess.Popen(
        [*COMMAND, "tiny", "a", *GREEDY, "--save", "--stdin"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout=PATIENCE_S + 2)
    child.communicate(b"late", timeout=60)
    assert asked_of(registry) == ["a\n\nlate"]


@pytest.mark.parametrize(
    ("data", "why"), [(b"\xff\xfa\x00", "no text in UTF-8"), (b"a\0b", "NUL"), (b"  \n", "empty")]
)
def test_what_is_no_text_on_stdin(tiny_model: Model, data: bytes, why: str) -> None:
    done = subprocess.run([*COMMAND, "tiny"], input=data, capture_output=True, check=False)
    assert done.returncode == 2
    assert why in done.stderr.decode()
    assert b"layers" not in done.stderr  # no model was loaded for it


def test_a_closed_stdin(tiny_model: Model) -> None:
    words = " ".join(COMMAND)
    for rest, code in (("tiny", 2), (f"tiny hello {' '.join(GREEDY)}", 0)):
        done = subprocess.run(
            ["sh", "-c", f"exec {words} {rest} <&-"], capture_output=True, check=False
        )
        assert done.returncode == code, done
        assert b"Traceback" not in done.stderr


def test_powershell_pipes_utf_16(tiny_model: Model, registry: Registry) -> None:
    text = "Grüße".encode("utf-16")
    command = [*COMMAND, "tiny", *GREEDY, "--save"]
    subprocess.run(command, input=text, capture_output=True, check=True)
    assert asked_of(registry) == ["Grüße"]


def test_files_come_before_the_prompt(cli: Cli, tiny_model: Model, registry: Registry) -> None:
    path = registry.home.parent / "a.txt"
    path.write_text("text")
    done = cli("chat", "tiny", "what?", "--file", path, *GREEDY, "--save")
    assert done.exit_code == 0, done
    assert asked_of(registry) == ["a.txt:\n```\ntext\n```\n\nwhat?"]
    assert cli("chat", "tiny", "what?", "--file", "./nothing").exit_code == 3


def test_a_reader_that_goes_away(tiny_model: Model) -> None:
    child = subprocess.Popen(
        [*COMMAND, "tiny", "hello", "--temperature", "0", "--ctx", "100000"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.read(1)
    child.stdout.close()
    assert child.wait(timeout=60) == 0
    assert b"Traceback" not in child.stderr.read()
    child.stderr.close()


# --- what comes out ------------------------------------------------------------------------


@pytest.fixture
def thinker(registry: Registry, tmp_path: Path) -> Model:
    chunks = ["<think>", "let me ", "see", "</think>", "\n\n", "**Yes**", " indeed."]
    path = scripted(tmp_path / "t.gguf", {"\n": chunks}, chat_template=THINKING_CHATML)
    return registry.add(arrival("thinker", path))


def test_thinking_is_apart_and_never_in_the_answer(cli: Cli, thinker: Model) -> None:
    data = cli("chat", "thinker", "x", "--temperature", 0, "--json").data
    assert (data["text"], data["thinking"]) == ("**Yes** indeed.", "let me see")
    hidden = cli("chat", "thinker", "x", "--temperature", 0)
    assert hidden.out == "**Yes** indeed.\n"
    assert "let me see" not in hidden.err
    shown = cli("chat", "thinker", "x", "--temperature", 0, "--thinking", "show")
    assert shown.out == "**Yes** indeed.\n"
    assert "let me see" in shown.err


def test_thinking_is_switched_off_where_the_template_can(
    cli: Cli, thinker: Model, tiny_model: Model
) -> None:
    off = cli("chat", "thinker", "x", *GREEDY, "--thinking", "off", "--json")
    on = cli("chat", "thinker", "x", *GREEDY, "--json")
    assert off.data["prompt_tokens"] > on.data["prompt_tokens"]  # the empty block in the prompt
    assert off.json["warnings"] == []
    other = cli("chat", "tiny", "x", *GREEDY, "--thinking", "off", "--json")
    assert "no switch for thinking" in other.json["warnings"][0]
    assert cli("chat", "tiny", "x", "--thinking", "perhaps").exit_code == 2


def test_control_tokens_of_a_channel_are_read(cli: Cli, registry: Registry, tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>"
        "{% endfor %}<|start|>assistant{# <|channel|> #}{{ '\n' }}"
    )
    marks = ["<|channel|>", "<|message|>", "<|start|>"]
    chunks = ["<|channel|>", "analysis", "<|message|>", "hm", "<|start|>"]
    path = scripted(tmp_path / "h.gguf", {"\n": chunks}, chat_template=template, control=marks)
    registry.add(arrival("harmony", path))
    data = cli("chat", "harmony", "x", "--temperature", 0, "--json").data
    assert (data["text"], data["thinking"]) == ("", "hm")


@pytest.mark.parametrize(
    ("grammar", "code"),
    [
        ('root ::= ("a"|"a")* "!"', 0),  # llama.cpp asks 2^n times about n characters
        ("root ::= " + '"a"? ' * 30, 0),
        ('root ::= n root "b" | "a"\nn ::= m\nm ::= "" | "a"', 2),  # and fills the memory here
    ],
)
def test_a_hostile_grammar_hangs_nothing(
    cli: Cli, tiny_model: Model, tmp_path: Path, grammar: str, code: int
) -> None:
    (tmp_path / "g.gbnf").write_text(grammar)
    asked = ("well?", "--grammar", tmp_path / "g.gbnf", "--json", "--max-tokens", 12)
    done = cli("chat", "tiny", *asked)
    assert done.exit_code == code
    if code == 0:
        assert set(done.data["text"]) <= {"a", "!"}
    else:
        assert "left recursion" in done.json["error"]["message"]


def test_a_grammar_is_followed(cli: Cli, tiny_model: Model, tmp_path: Path) -> None:
    (tmp_path / "g.gbnf").write_text('root ::= "yes" | "no"')
    done = cli("chat", "tiny", "well?", "--grammar", tmp_path / "g.gbnf", "--json", "--seed", 3)
    assert done.data["text"] in ("yes", "no")
    for wrong in ("root ::= (", "", "# nothing"):  # an empty one is not none
        (tmp_path / "g.gbnf").write_text(wrong)
        assert cli("chat", "tiny", "x", "--grammar", tmp_path / "g.gbnf").exit_code == 2
    assert cli("chat", "tiny", "x", "--grammar", tmp_path / "none.gbnf").exit_code == 3


def test_an_answer_is_json_of_the_schema(cli: Cli, tiny_model: Model, tmp_path: Path) -> None:
    pytest.importorskip("localllm.grammars.schema")
    schema = {
        "type": "object", "required": ["ok", "n"], "additionalProperties": False,
        "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 2, 3]}},
    }  # fmt: skip
    (tmp_path / "s.json").write_text(json.dumps(schema))
    done = cli("chat", "tiny", "x", "--json-schema", tmp_path / "s.json", "--json", "--seed", 1)
    assert done.exit_code == 0, done
    value = json.loads(done.data["text"])
    assert isinstance(value["ok"], bool)
    assert value["n"] in (1, 2, 3)
    for text in ("{", '"text"', '{"type": "nothing"}'):
        (tmp_path / "s.json").write_text(text)
        assert cli("chat", "tiny", "x", "--json-schema", tmp_path / "s.json").exit_code == 2
    both = ("--json-schema", tmp_path / "s.json", "--grammar", tmp_path / "s.json")
    assert cli("chat", "tiny", "x", *both).exit_code == 2


def test_the_models_own_sampling_and_what_wins(
    cli: Cli, registry: Registry, tmp_path: Path
) -> None:
    from tests.support.gguf_writer import F32

    keys = {"general.sampling.temp": F32(0.0)}
    path = tiny_llama(tmp_path / "m.gguf", metadata=keys)
    registry.add(arrival("greedy", path))
    registry.add(arrival("loose", tiny_llama(tmp_path / "l.gguf")))

    def text(*args: object) -> Any:
        return cli("chat", *args, "hello", "-n", 8, "--json").data["text"]

    greedy = text("loose", "--temperature", 0)
    assert text("greedy", "--seed", 1) == text("greedy", "--seed", 2) == greedy
    assert text("greedy", "--temperature", 3, "--seed", 1) != greedy


# --- a full context ------------------------------------------------------------------------


def endless(registry: Registry, tmp_path: Path) -> None:
    path = scripted(tmp_path / "e.gguf", {"\n": ["la ", "lu "]}, loops=True)
    registry.add(arrival("endless", path))


def test_an_answer_goes_on_beyond_the_context_with_shift(
    cli: Cli, registry: Registry, tmp_path: Path
) -> None:
    endless(registry, tmp_path)
    common = ("chat", "endless", "x", "--temperature", 0, "--ctx", 256, "-n", 700, "--json")
    stopped = cli(*common)
    assert stopped.data["truncated"] is True
    assert stopped.data["completion_tokens"] < 256
    assert stopped.data["dropped"] == []
    shifted = cli(*common, "--overflow", "shift")
    data = shifted.data
    assert (data["finish_reason"], data["truncated"]) == ("length", False)
    assert data["completion_tokens"] == 700
    assert data["text"] == "la lu " * 350
    assert {d["how"] for d in data["dropped"]} == {"answer"}
    assert data["context_tokens"] <= 256
    told = cli(*common[:-1], "--overflow", "shift")
    assert "out of the model's sight" in told.err


def test_old_turns_go_and_are_told(cli: Cli, registry: Registry, tmp_path: Path) -> None:
    endless(registry, tmp_path)
    chats = Chats.of(registry)
    base = ("chat", "endless", "--temperature", 0, "--ctx", 256, "-n", 40, "--json")
    cli(*base, "first " * 8, "--save", "--system", "Sing.")
    for n in range(5):
        done = cli(*base, f"more {n}", "--continue", "--overflow", "shift")
        assert done.exit_code == 0, done
    assert done.data["dropped"][0]["how"] == "turns"
    kept = chats.messages(chats.latest().id)
    assert len(kept) == 1 + 2 * 6  # what the model no longer sees is kept all the same
    assert [m.data.get("sight") for m in kept][:3] == [None, "dropped", "dropped"]
    plain = cli(*base, "again", "--continue")
    assert plain.exit_code in (0, 2)  # nothing more is dropped unasked
    first = cli("chat", "endless", "x " * 300, "--ctx", 256, "--overflow", "shift", "--json")
    assert first.exit_code == 2
    assert "the context holds 256" in first.json["error"]["message"]


def test_a_conversation_outlives_its_model(
    cli: Cli, registry: Registry, tmp_path: Path, tiny_model: Model
) -> None:
    endless(registry, tmp_path)
    kept = cli("chat", "endless", "hello", "-n", 3, "--save", "--json").data["chat_id"]
    cli("rm", "endless")
    gone = cli("chat", "--chat", kept)
    assert gone.exit_code == 3
    assert "was held with org/endless" in gone.err
    assert f"localllm chat MODEL --chat {kept}" in gone.err
    other = cli("chat", "tiny", "more", "--chat", kept, "-n", 3, "--json")
    assert (other.exit_code, other.data["chat_id"]) == (0, kept)
