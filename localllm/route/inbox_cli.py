"""route inbox: questions that wait for a person."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from localllm import config
from localllm.errors import LocalLLMError, UsageProblem
from localllm.registry import Registry
from localllm.registry.decisions import Decisions
from localllm.registry.inbox import Inbox, InboxItem
from localllm.registry.routers import Routers
from localllm.route.decide_cli import read_prompt
from localllm.route.opening import read_version
from localllm.route.voting import INBOX
from localllm.ui import Heading, Moment, Note, Seconds, Sink, Table, Text, View
from localllm.ui.marked import clean_lines
from localllm.ui.view import Part

Id = Annotated[int, typer.Argument(metavar="ID", help="Its number in `localllm route inbox list`.")]


def list_command(
    every: Annotated[bool, typer.Option("--all", help="Those that wait no more, too.")] = False,
    *,
    sink: Sink,
) -> None:
    """List the questions that wait for a person."""
    sink.show(Inbox(Registry.open()).list(every=every), _list_view)


def show_command(number: Id, *, sink: Sink) -> None:
    """Show a question, and what a model would answer."""
    sink.show(Inbox(Registry.open()).find(number), _view)


def answer_command(
    number: Id,
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="- or none is stdin.")
    ] = None,
    *,
    sink: Sink,
) -> None:
    """Answer a question; who waits for it gets the answer."""
    registry = Registry.open()
    done = Inbox(registry).answer(number, read_prompt(text))
    _learn(registry, done, sink, approved=False)
    sink.show(done, _done_view)


def approve_command(number: Id, *, sink: Sink) -> None:
    """Send the answer that a model proposed as it is."""
    registry = Registry.open()
    inbox = Inbox(registry)
    item = inbox.find(number)
    if item.draft is None:
        raise UsageProblem(
            f"nothing was proposed for question {number}", f"localllm route inbox answer {number}"
        )
    done = inbox.answer(number, item.draft)
    _learn(registry, done, sink, approved=True)
    sink.show(done, _done_view)


def edit_command(number: Id, *, sink: Sink) -> None:
    """Change the answer that a model proposed, in your editor, and send it."""
    registry = Registry.open()
    inbox = Inbox(registry)
    item = inbox.find(number)
    text = _edited(item.draft or "")
    done = inbox.answer(number, text)
    _learn(registry, done, sink, approved=text.strip() == (item.draft or "").strip())
    sink.show(done, _done_view)


def _learn(registry: Registry, item: InboxItem, sink: Sink, *, approved: bool) -> None:
    """What the person did is a vote: a draft that was sent as it is was good enough, where it was
    not the person was needed. The answer is sent: what hinders the vote is only told."""
    if item.decision_id is None:
        return
    try:
        spec = read_version(Routers(registry).find(item.router).current)
        person = next((one for one in spec.members if one.kind == "human"), None)
        if person is None:
            return
        better = person.draft if approved and person.draft else person.name
        Decisions(registry).vote(item.decision_id, better, INBOX)
    except LocalLLMError as error:
        sink.warn(f"the answer is sent, and nothing is learned from it: {error.message}")


def _edited(draft: str) -> str:
    """Raises UsageProblem where there is no editor, or it fails."""
    environment = config.environment()
    editor = environment.get("VISUAL") or environment.get("EDITOR")
    if not editor:
        raise UsageProblem("no editor is set", "EDITOR=nano localllm route inbox edit ID")
    with tempfile.TemporaryDirectory(prefix="localllm-answer-") as folder:
        path = Path(folder) / "answer.md"
        path.write_text(draft, encoding="utf-8")
        try:
            done = subprocess.run([*shlex.split(editor), str(path)], check=False)
        except OSError as error:
            raise UsageProblem(f"the editor {editor} cannot be started: {error}") from None
        if done.returncode != 0:
            raise UsageProblem(f"the editor ended with status {done.returncode}: nothing was sent")
        return path.read_text(encoding="utf-8", errors="replace")


def _list_view(found: Sequence[InboxItem]) -> View:
    if not found:
        return Note("nobody waits for an answer")
    now = time.time()
    rows = [
        (one.id, one.router, Moment(one.asked_at),
         Seconds(max(0.0, one.expires_at - now)) if one.state == "waiting" else "-",
         one.state, "yes" if one.draft else "-", _short(one.question))
        for one in found
    ]  # fmt: skip
    return Table(("id", "router", "asked", "waits for", "state", "draft", "question"), rows)


def _view(item: InboxItem) -> View:
    view: list[Part] = []
    for message in item.messages:
        view.append(Heading(clean_lines(str(message.get("role", "")))))
        view.append(Text(clean_lines(str(message.get("content", "")))))
    if item.draft is not None:
        view += [Heading("proposed answer"), Text(clean_lines(item.draft))]
    if item.answer is not None:
        view += [Heading("answer"), Text(item.answer)]
    return view


def _done_view(item: InboxItem) -> View:
    return Note(f"question {item.id} is answered")


def _short(text: str) -> str:
    line = " ".join(clean_lines(text).split())
    return line if len(line) <= 60 else line[:59] + "…"
