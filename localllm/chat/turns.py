"""Commands on what was said: again, differently, back, kept, read from a file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.chat.commands import Command
from localllm.chat.conversation import Conversation
from localllm.chat.defaults import first_entries
from localllm.chat.files import as_message, read_image, read_text
from localllm.chat.kept import title
from localllm.chat.session import Session
from localllm.chat.transcript import read_file, write_file
from localllm.errors import NotFound, UsageProblem
from localllm.ui import Moment, Table

if TYPE_CHECKING:
    from localllm.chat.repl import Repl

_LISTED = 10


def retry(repl: Repl, rest: str) -> None:
    """Ask the last question again; a fixed seed would say the same, so it moves on."""
    question = repl.talk.conversation.question
    if question is None:
        raise UsageProblem("there is no question to ask again")
    seed = repl.talk.settings.given.get("seed")
    if seed is not None:
        repl.talk.settings.given["seed"] = seed + 1
    repl.ask_instead(question.content, question.images)


def edit(repl: Repl, rest: str) -> None:
    question = repl.talk.conversation.question
    if question is None:
        raise UsageProblem("there is no question to edit")
    repl.edited = question


def undo(repl: Repl, rest: str) -> None:
    question = repl.talk.conversation.undo()
    if question is None:
        raise UsageProblem("there is nothing to take back")
    repl.talk.keeper.save(repl.talk.conversation, repl.talk.session.name)
    repl.sink.note(f"taken back: {title(Conversation([question]))}")


def system(repl: Repl, rest: str) -> None:
    """Show or set it; "-" takes it away."""
    conversation = repl.talk.conversation
    if rest:
        conversation.set_system("" if rest == "-" else rest.strip('"'))
        repl.talk.keeper.save(conversation, repl.talk.session.name)
    repl.sink.note(f"system: {conversation.system or '(none)'}")


def clear(repl: Repl, rest: str) -> None:
    """Begin anew, with the same system message."""
    talk = repl.talk
    talk.keeper.leave()
    talk.conversation = Conversation(first_entries(talk.session.model, talk.conversation.system))
    talk.last = None
    repl.attached.clear()
    repl.images.clear()
    repl.sink.note("a new conversation")


def file(repl: Repl, rest: str) -> None:
    """Attach, or with "-" forget what is attached."""
    if rest == "-":
        repl.attached.clear()
        repl.images.clear()
        repl.sink.note("nothing is attached")
        return
    for path in _paths(rest, "/file PATH"):
        text = as_message(path, read_text(path))
        session = repl.talk.session
        size = f"{len(text):,} characters"
        if isinstance(session, Session):
            size = f"{len(session.prompting.encode(text)):,} tokens"
        repl.attached.append(text)
        repl.sink.note(f"{path.name}: {size}, sent with your next message")


def image(repl: Repl, rest: str) -> None:
    repl.talk.session.require_images()
    for path in _paths(rest, "/image PATH"):
        repl.images.append(read_image(path))
        repl.sink.note(f"{path.name}: sent with your next message")


def save(repl: Repl, rest: str) -> None:
    """Into a file, or without a name into the registry."""
    talk = repl.talk
    if not talk.conversation.turns():
        raise UsageProblem("nothing was said yet")
    if not rest:
        talk.keeper.on = True
        talk.keeper.save(talk.conversation, talk.session.name)
        if talk.keeper.number is not None:
            repl.sink.note(f"kept as conversation {talk.keeper.number}")
        return
    path = Path(_unquoted(rest)).expanduser()
    about = {"title": title(talk.conversation), "model": talk.session.name}
    write_file(path, talk.conversation.entries, about)
    repl.sink.note(f"written to {path}")


def load(repl: Repl, rest: str) -> None:
    """A kept conversation by its number, or one from a JSON file."""
    if not rest:
        _list(repl)
        return
    talk = repl.talk
    if rest.lstrip("#").isdigit():
        talk.conversation = talk.keeper.resume(int(rest.lstrip("#")))
    else:
        conversation = read_file(Path(_unquoted(rest)).expanduser())
        talk.keeper.leave()
        talk.conversation = conversation
    talk.last = None
    n_turns = len(talk.conversation.turns())
    repl.sink.note(f"{n_turns} turn{'' if n_turns == 1 else 's'}:")
    repl.recap()


def _list(repl: Repl) -> None:
    chats = repl.chats.list()[:_LISTED]
    if not chats:
        raise NotFound("no conversation is kept")
    rows = [(chat.id, Moment(chat.changed_at), chat.model, chat.title) for chat in chats]
    repl.sink.present(Table(("id", "last", "model", "begins"), rows))


def _paths(rest: str, usage: str) -> list[Path]:
    """The one path that the text is, spaces and all, or several quoted as in a shell."""
    if not rest:
        raise UsageProblem("which file?", usage)
    whole = Path(_unquoted(rest)).expanduser()
    if whole.exists():
        return [whole]
    try:
        words = shlex.split(rest, posix="\\" not in rest)
    except ValueError:
        words = [rest]
    return [Path(_unquoted(word)).expanduser() for word in words]


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


COMMANDS = (
    Command("/retry", "", "Ask the last question again.", retry),
    Command("/edit", "", "Change the last question and ask it instead.", edit),
    Command("/undo", "", "Take the last question and its answer back.", undo),
    Command("/clear", "", "Begin a new conversation.", clear, others=("/new",)),
    Command("/system", "[TEXT]", "Show or set the system message; - takes it away.", system),
    Command("/file", "PATH", "Put a file into your next message; - forgets it.", file, "file"),
    Command("/image", "PATH", "Put an image into your next message.", image, "file"),
    Command("/save", "[FILE]", "Keep the conversation, or write it to a .md or .json file.", save,
            "file"),
    Command("/load", "[ID|FILE]", "Go on with a kept conversation, or list them.", load, "chat"),
)  # fmt: skip
