"""Conversations on a real pty, seen through a terminal emulator."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from localllm.registry import Model, Registry
from localllm.registry.chats import Chats, KeptMessage
from tests.conftest import arrival
from tests.support.scripted import THINKING_CHATML, scripted
from tests.support.terminal import Terminal
from tests.support.tiny_models import tiny_llama

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
pytest.importorskip("pyte")

SAID = ["# Fruits", "\n\n- **apple**", "\n- pear"]


@contextmanager
def chat(*args: object, **options: Any) -> Iterator[Terminal]:
    command = [sys.executable, "-m", "localllm", "chat", *map(str, args)]
    with Terminal(command, **options) as terminal:
        yield terminal
        assert "Traceback" not in terminal.text()
        assert "internal error" not in terminal.text()


@pytest.fixture
def fruits(registry: Registry, tmp_path: Path) -> Model:
    """Says the same three lines whatever it is asked."""
    path = scripted(tmp_path / "fruits.gguf", {"\n": SAID})
    return registry.add(arrival("fruits", path, architecture="llama"))


def ask(terminal: Terminal, text: str) -> None:
    before = terminal.prompts()
    terminal.send(f"{text}\r")
    terminal.until_ready(after=before)


def test_a_conversation_is_drawn_and_kept(fruits: Model, registry: Registry) -> None:
    with chat("fruits", "--temperature", 0, "--stats") as terminal:
        terminal.until_ready()
        ask(terminal, "hello")
        text = terminal.text()
        assert "\nFruits\n\n • apple\n • pear\n" in text
        assert "**" not in text
        assert "stop; seed" in text.replace("\n", " ")
        ask(terminal, "again")
        assert re.search(r"tokens in \([1-9]\d* cached\)", terminal.text())
        ask(terminal, "/tokens")
        assert re.search(r"\d+ of 4,096 tokens", terminal.text())
        terminal.send("\x04")
        assert terminal.finish() == 0
    (kept,) = Chats.of(registry).list()
    roles = [m.role for m in Chats.of(registry).messages(kept.id)]
    assert roles == ["user", "assistant"] * 2
    assert kept.title == "hello"


def test_commands_complete_and_a_wrong_one_names_the_nearest(fruits: Model) -> None:
    with chat("fruits") as terminal:
        terminal.until_ready()
        terminal.send("/re")
        terminal.until("/retry")
        terminal.until("Ask the last question again.")
        terminal.send("\x15")  # Ctrl-U clears the line
        ask(terminal, "/retyr")
        assert "there is no command /retyr; near: /retry" in terminal.text()
        ask(terminal, "/?")
        for name in ("/system", "/undo", "/model", "/exit"):
            assert name in terminal.text()
        terminal.send("/model fr")
        terminal.until("org/fruits")
        terminal.send("\t")
        terminal.until(">>> /model org/fruits")
        terminal.send("\x15")
        ask(terminal, "/set temprature 1")
        assert "near: temperature" in terminal.text()
        terminal.send("/bye\r")
        assert terminal.finish() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(registry: Registry, tmp_path: Path) -> None:
    path = scripted(tmp_path / "m.gguf", {"\n": ["la ", "lu "]}, loops=True)
    registry.add(arrival("endless", path))
    with chat("endless", "--temperature", 0, "--plain") as terminal:
        terminal.until_ready()
        terminal.send("sing\r")
        terminal.until("la lu la lu")
        terminal.interrupt()
        terminal.until("(stopped)")
        terminal.until_ready()
        terminal.send("typed and taken back")
        terminal.interrupt()
        terminal.until("Ctrl-D or /exit leaves")
        terminal.until_ready()
        terminal.send("\x04")
        assert terminal.finish() == 0
    (kept,) = Chats.of(registry).list()
    question, answer = Chats.of(registry).messages(kept.id)
    assert question.content == "sing"
    assert answer.content.startswith("la lu la lu")
    assert answer.data["finish"] == "cancelled"


def test_ctrl_z_goes_back_to_the_shell_and_fg_comes_back(fruits: Model) -> None:
    with Terminal(["bash", "--norc", "--noprofile", "-i"], env={"PS1": "shell$ "}) as terminal:
        terminal.until("shell$")
        terminal.send(f"{sys.executable} -m localllm chat fruits --temperature 0\r")
        terminal.until_ready()
        terminal.send("hel\x1a")
        terminal.until("Stopped")
        terminal.until("shell$", count=2)
        terminal.send("fg\r")
        terminal.until(">>> hel")
        terminal.until_ready()
        terminal.send("lo\r")
        terminal.until("pear")
        assert ">>> hello" in terminal.text()


def test_what_is_typed_meanwhile_waits_for_the_prompt(registry: Registry, tmp_path: Path) -> None:
    path = scripted(tmp_path / "m.gguf", {"\n": ["la ", "lu "]}, loops=True)
    registry.add(arrival("endless", path))
    with chat("endless", "--temperature", 0, "--max-tokens", 900) as terminal:
        terminal.until_ready()
        terminal.send("sing\r")
        terminal.until("la lu")
        terminal.send("ahead")
        terminal.until("as max_tokens says")
        terminal.until(">>> ahead")
        assert terminal.text().count("ahead") == 1


def test_several_lines(fruits: Model, registry: Registry) -> None:
    with chat("fruits", "--temperature", 0) as terminal:
        terminal.until_ready()
        terminal.send("one\x1b\rtwo\r")  # Alt-Enter between
        terminal.until_ready(after=1)
        terminal.send('"""three\r')
        terminal.until("... ")
        terminal.send('four"""\r')
        terminal.until("pear", count=2)
        terminal.until_ready()
        terminal.send("\x1b[200~five\nsix\x1b[201~")  # pasted
        terminal.pump(0.3)
        assert terminal.text().count("pear") == 2  # not sent by its line end
        terminal.send("\r")
        terminal.until("pear", count=3)
        terminal.until_ready()
        terminal.send("\x04")
        terminal.finish()
    (kept,) = Chats.of(registry).list()
    asked = [m.content for m in Chats.of(registry).messages(kept.id) if m.role == "user"]
    assert asked == ["one\ntwo", "three\nfour", "five\nsix"]


def test_history_is_private_and_comes_back(fruits: Model, home: Path) -> None:
    with chat("fruits", "--temperature", 0) as terminal:
        terminal.until_ready()
        ask(terminal, "remember me")
        terminal.send("\x04")
        terminal.finish()
    for name in ("chat_history.jsonl", "chats.db"):
        assert (home / name).stat().st_mode & 0o077 == 0
    with chat("fruits") as terminal:
        terminal.until_ready()
        terminal.send("\x1b[A")  # arrow up
        terminal.until(">>> remember me")


def test_turns_are_taken_back_edited_and_asked_again(fruits: Model, registry: Registry) -> None:
    with chat("fruits", "--temperature", 0) as terminal:
        terminal.until_ready()
        for line in ("one", "two", "/undo", "/retry", "/system Be brief."):
            ask(terminal, line)
        terminal.send("/edit\r")
        terminal.until(">>> one")
        terminal.send(" and a half\r")
        terminal.until("pear", count=4)
        terminal.until_ready()
        terminal.send("\x04")
        terminal.finish()
    (kept,) = Chats.of(registry).list()
    said = [(m.role, m.content) for m in Chats.of(registry).messages(kept.id)]
    assert said == [
        ("system", "Be brief."), ("user", "one and a half"), ("assistant", "".join(SAID)),
    ]  # fmt: skip


def test_an_edit_that_cannot_be_answered_takes_nothing_away(
    fruits: Model, registry: Registry
) -> None:
    with chat("fruits", "--temperature", 0, "--ctx", 256, columns=200, rows=50) as terminal:
        terminal.until_ready()
        ask(terminal, "one")
        terminal.send("/edit\r")
        terminal.until(">>> one", count=2)
        terminal.send(" the world" * 400 + "\r")
        terminal.until("error: the prompt is")
        terminal.until_ready(after=3)
        terminal.send("\x04")
        terminal.finish()
    (kept,) = Chats.of(registry).list()
    said = [m.content for m in Chats.of(registry).messages(kept.id)]
    assert said == ["one", "".join(SAID)]


def test_a_model_without_a_template_says_so_and_thinking_is_told_of_once(
    registry: Registry, tmp_path: Path
) -> None:
    registry.add(arrival("base", tiny_llama(tmp_path / "b.gguf", chat_template=None)))
    with chat("base", columns=200) as terminal:
        terminal.until_ready()
        assert terminal.text().count("no chat template (a base model?)") == 1
        ask(terminal, "/set thinking off")
        ask(terminal, "/set top_k 3")
        assert terminal.text().count("no switch for thinking") == 1


def test_another_model_in_the_middle(fruits: Model, registry: Registry, tmp_path: Path) -> None:
    registry.add(arrival("other", tiny_llama(tmp_path / "o.gguf", seed=3)))
    with chat("fruits", "--temperature", 0, "--max-tokens", 5) as terminal:
        terminal.until_ready()
        ask(terminal, "one")
        ask(terminal, "/model nothing")
        assert "no model 'nothing' here" in terminal.text()
        ask(terminal, "/model other")
        assert "org/other: 3 of 3 layers on CPU" in terminal.text()
        ask(terminal, "two")
        terminal.send("\x04")
        terminal.finish()
    (kept,) = Chats.of(registry).list()
    models = [m.data.get("model") for m in Chats.of(registry).messages(kept.id)]
    assert models == [None, "org/fruits", None, "org/other"]
    assert kept.model == "org/other"


def test_a_conversation_survives_a_kill_and_goes_on(fruits: Model, registry: Registry) -> None:
    with chat("fruits", "--temperature", 0) as terminal:
        terminal.until_ready()
        ask(terminal, "before")
        terminal.child.kill()
        terminal.finish()
    with chat("--continue", "--temperature", 0) as terminal:
        terminal.until_ready()
        assert ">>> before" in terminal.text()
        ask(terminal, "after")
        terminal.send("\x04")
        terminal.finish()
    (kept,) = Chats.of(registry).list()
    asked = [m.content for m in Chats.of(registry).messages(kept.id) if m.role == "user"]
    assert asked == ["before", "after"]


def test_a_question_whose_answer_was_killed_can_be_asked_again(
    fruits: Model, registry: Registry
) -> None:
    chats = Chats.of(registry)
    said = [KeptMessage("user", "one"), KeptMessage("assistant", "two"), KeptMessage("user", "x")]
    chats.write(chats.begin("org/fruits", "one"), 0, said, model="org/fruits")
    with chat("--continue", "--temperature", 0, columns=100) as terminal:
        terminal.until_ready()
        assert ">>> x\n(it has no answer: /retry asks it again" in terminal.text()
        assert "two" not in terminal.text()  # that was to another question
        ask(terminal, "/retry")
    (kept,) = chats.list()
    assert [m.content for m in chats.messages(kept.id)] == ["one", "two", "x", "".join(SAID)]


def test_thinking_is_dimmed_or_hidden(registry: Registry, tmp_path: Path) -> None:
    chunks = ["<think>", "let me see", "</think>", "\n\n", "Yes."]
    path = scripted(tmp_path / "t.gguf", {"\n": chunks}, chat_template=THINKING_CHATML)
    registry.add(arrival("thinker", path))
    with chat("thinker", "--temperature", 0) as terminal:
        terminal.until_ready()
        ask(terminal, "x")
        assert b"\x1b[2mlet me see" in terminal.raw
        assert "let me see\n\nYes." in terminal.text()
        ask(terminal, "/set thinking hide")
        ask(terminal, "x")
        assert "thought for 0 s\n\nYes." in terminal.text()
        ask(terminal, "/set nothink")
        assert "thinking off" in terminal.text()
        assert "<think>" not in terminal.text()


def test_files_go_with_the_next_message(fruits: Model, registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "my notes.py").write_text("x = '```'\n")
    (tmp_path / "binary").write_bytes(b"\x00\xff\x00")
    with chat("fruits", "--temperature", 0, columns=200) as terminal:
        terminal.until_ready()
        ask(terminal, f"/file {tmp_path}/nothing")
        assert "there is no file" in terminal.text()
        ask(terminal, f"/file {tmp_path}/binary")
        assert "is no text in UTF-8" in terminal.text().replace("\n", " ")
        ask(terminal, f"/file {tmp_path}")
        assert "is a folder" in terminal.text().replace("\n", " ")
        ask(terminal, f"/file {tmp_path}/my notes.py")
        assert "sent with your next message" in terminal.text().replace("\n", " ")
        ask(terminal, "what is this?")
        terminal.send("\x04")
        terminal.finish()
    (kept,) = Chats.of(registry).list()
    question = Chats.of(registry).messages(kept.id)[0].content
    assert question == "my notes.py:\n````python\nx = '```'\n````\n\nwhat is this?"


def test_what_was_attached_waits_where_the_answer_was_stopped(
    tiny_model: Model, tmp_path: Path
) -> None:
    (tmp_path / "long.txt").write_text("the world " * 3000)
    with chat("tiny", "--ctx", 512, columns=120) as terminal:
        terminal.until_ready()
        ask(terminal, f"/file {tmp_path}/long.txt")
        ask(terminal, "sum up")
        assert "error: the prompt is" in terminal.text()
        assert "waits for your next message" in terminal.text()
        ask(terminal, "/file -")
        ask(terminal, "/tokens")
        assert "0 of 512 tokens (0%)" in terminal.text()


def test_what_is_dropped_is_told_after_the_answer(registry: Registry, tmp_path: Path) -> None:
    path = scripted(tmp_path / "m.gguf", {"\n": ["la ", "lu "]}, loops=True)
    registry.add(arrival("endless", path))
    with chat(
        "endless", "--temperature", 0, "--ctx", 256, "-n", 400, "--overflow", "shift", columns=120
    ) as terminal:
        terminal.until_ready()
        ask(terminal, "sing")
        text = terminal.text()
        assert text.replace("\n", " ").count("la lu") == 200
        told = text.index("tokens of this answer are out of the model's sight")
        assert told > text.rindex("la lu")
        ask(terminal, "again")
        assert "the oldest 2 messages" in terminal.text()


def test_a_summary_is_shown_and_kept(registry: Registry, tmp_path: Path) -> None:
    path = scripted(tmp_path / "m.gguf", {"\n": [f"word{n} " for n in range(30)]})
    registry.add(arrival("wordy", path))
    options = ("--ctx", 1024, "--overflow", "summarize", "--temperature", 0)
    with chat("wordy", *options, columns=160, rows=40) as terminal:
        terminal.until_ready()
        for n in range(4):
            ask(terminal, f"question {n} " + "the world " * 100)
        text = terminal.text()
        assert "messages" in text
        assert "were summed up" in text
        assert "summary: word0 word1" in text
    (kept,) = Chats.of(registry).list()
    found = Chats.of(registry).messages(kept.id)
    assert any(m.data.get("is_summary") and m.content.startswith("word0") for m in found)
    assert sum(m.role == "user" for m in found) == 4


def test_a_file_and_back(fruits: Model, registry: Registry, tmp_path: Path) -> None:
    with chat("fruits", "--temperature", 0, "--no-save") as terminal:
        terminal.until_ready()
        ask(terminal, "one")
        ask(terminal, f"/save {tmp_path}/talk.json")
        ask(terminal, f"/save {tmp_path}/talk.json")
        assert "istherealready" in "".join(terminal.text().split())  # wrapped anywhere
        ask(terminal, "/clear")
        ask(terminal, f"/load {tmp_path}/talk.json")
        assert ">>> one" in terminal.text()
        ask(terminal, f"/save {tmp_path}/talk.md")
        terminal.send("\x04")
        terminal.finish()
    assert (tmp_path / "talk.md").read_text().endswith("- pear\n")
    assert Chats.of(registry).list() == ()


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_plain_terminals(fruits: Model, env: dict[str, str]) -> None:
    with chat("fruits", "--temperature", 0, env=env) as terminal:
        terminal.until_ready()
        terminal.send("hello\r")
        terminal.until("pear")
        terminal.until_ready()
        if env.get("TERM") == "dumb":
            assert b"\x1b" not in terminal.raw
            assert "- **apple**" in terminal.text()
        else:
            assert not re.search(rb"\x1b\[[0-9;]*3[0-9]m", terminal.raw)
        terminal.send("\x04")
        assert terminal.finish() == 0


def test_answers_into_a_file_while_the_prompt_is_on_the_terminal(
    fruits: Model, tmp_path: Path
) -> None:
    with (
        (tmp_path / "out.txt").open("wb") as out,
        chat("fruits", "--temperature", 0, stdout=out.fileno()) as terminal,
    ):
        terminal.until_ready()
        terminal.send("hello\r")
        terminal.until_ready(after=1)
        terminal.send("\x04")
        assert terminal.finish() == 0
    assert (tmp_path / "out.txt").read_text() == "".join(SAID) + "\n"


def test_ctrl_c_while_loading_leaves_with_130(registry: Registry, tmp_path: Path) -> None:
    big = tiny_llama(tmp_path / "big.gguf", n_layer=24, n_embd=512, n_ff=2048)
    registry.add(arrival("big", big))
    with chat("big") as terminal:
        deadline = time.monotonic() + 30
        while b"load" not in terminal.raw and b"layers" not in terminal.raw:
            assert time.monotonic() < deadline
            terminal.pump(0.005)
        terminal.interrupt()
        if b"layers" in terminal.raw:  # it was loaded already: Ctrl-C was for the prompt
            terminal.until_ready()
            terminal.send("\x04")
            assert terminal.finish() == 0
        else:
            assert terminal.finish() in (0, 130)


def test_a_closed_terminal_ends_it(fruits: Model) -> None:
    command = [sys.executable, "-m", "localllm", "chat", "fruits"]
    terminal = Terminal(command)
    terminal.until_ready()
    os.close(terminal._master)
    terminal.child.wait(timeout=30)
    assert terminal.child.poll() is not None
