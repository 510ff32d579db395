"""Commands on the model and the settings: which, how, how fast, how full."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from localllm.chat.answer import Answer
from localllm.chat.commands import Command, find
from localllm.chat.far import FarSession
from localllm.chat.session import Session
from localllm.errors import NotFound, UsageProblem
from localllm.library.answering import find_answerer
from localllm.library.presets import modelfile_of
from localllm.ui import Bytes, Count, Fields, Rate, Seconds, Table, Text, View

if TYPE_CHECKING:
    from localllm.chat.repl import Repl

SHOWN = ("info", "parameters", "system", "template", "modelfile", "license")
# Ollama's words for /set, as ours
_WORDS = {
    "verbose": ("stats", "on"), "quiet": ("stats", "off"), "think": ("thinking", "show"),
    "nothink": ("thinking", "off"), "wordwrap": ("markdown", "on"),
    "nowordwrap": ("markdown", "off"),
}  # fmt: skip


def set_(repl: Repl, rest: str) -> None:
    """/set; /set NAME VALUE; /set NAME - ; and as Ollama writes it."""
    settings, base = repl.talk.settings, repl.talk.session.sampling
    words = rest.removeprefix("parameter ").split(maxsplit=1)
    if not words:
        shown = settings.shown(base)
        repl.sink.present(Fields([(name, _text(value)) for name, value in shown.items()]))
        return
    name, value = words[0], words[1].strip() if len(words) > 1 else ""
    if name in ("system", "history", "nohistory"):
        _set_other(repl, name, value)
        return
    if not value and name in _WORDS:
        name, value = _WORDS[name]
    if not value:
        key = name.replace("-", "_")
        shown = settings.shown(base)
        if key not in shown:
            settings.unset(name)  # raises, with the nearest name
        repl.sink.note(f"{key} {_text(shown[key])}")
        return
    if value == "-":
        settings.unset(name)
        repl.sink.note(f"{name}: the model's own again")
        return
    key = settings.set(name, value)
    repl.settings_changed(key)
    repl.sink.note(f"{key} {_text(settings.shown(base)[key])}")


def _set_other(repl: Repl, name: str, value: str) -> None:
    if name == "system":
        find("/system", repl.commands).run(repl, value)
    else:
        repl.talk.keeper.on = name == "history"
        repl.sink.note("this conversation is " + ("kept" if name == "history" else "not kept"))


def model(repl: Repl, rest: str) -> None:
    if not rest:
        session = repl.talk.session
        repl.sink.note(f"{session.name}: {session.where}")
        return
    repl.switch_to(find_answerer(rest, repl.registry))


def tokens(repl: Repl, rest: str) -> None:
    session = repl.talk.session
    if not isinstance(session, Session):
        raise UsageProblem(f"the tokens of {session.name} are counted by its server", "/stats")
    prompting = session.prompting
    if rest:
        repl.sink.note(f"{len(prompting.encode(rest)):,} tokens")
        return
    used = prompting.count(repl.talk.conversation)
    waiting = sum(len(prompting.encode(text)) for text in repl.attached)
    more = f", and {waiting:,} of files for your next message" if waiting else ""
    hidden = sum(1 for e in repl.talk.conversation.entries if e.sight != "seen")
    gone = f"; {hidden} messages are out of the model's sight" if hidden else ""
    share = used / session.n_ctx
    repl.sink.note(f"{used:,} of {session.n_ctx:,} tokens ({share:.0%}){more}{gone}")


def stats(repl: Repl, rest: str) -> None:
    if repl.talk.last is None:
        raise UsageProblem("nothing was answered yet")
    repl.sink.note(stats_line(repl.talk.last))


def show(repl: Repl, rest: str) -> None:
    what = rest.split()[0] if rest else "info"
    if what not in SHOWN:
        raise UsageProblem(f"/show {what} is none of {', '.join(SHOWN)}")
    session = repl.talk.session
    if what == "parameters":
        set_(repl, "")
    elif what == "system":
        repl.sink.note(f"system: {repl.talk.conversation.system or '(none)'}")
    elif not isinstance(session, Session):
        repl.sink.present(_far_info(session, what))
    elif what == "info":
        repl.sink.present(_info(session))
    elif what == "modelfile":
        repl.sink.present(Text(modelfile_of(session.model).text()))
    else:
        text = session.generator.template.source if what == "template" else _license(session)
        if not isinstance(text, str) or not text:
            raise NotFound(f"{session.model.name} brings no {what}")
        repl.sink.present(Text(text))


def _license(session: Session) -> object:
    """Its text, else its name in the file."""
    known = session.model.extras.get("license")
    return known or session.opened.model.metadata().get("general.license")


def _far_info(session: FarSession, what: str) -> View:
    if what != "info":
        raise NotFound(f"{session.name} is not on this machine: its {what} is not known here")
    return Fields([("name", session.name), ("is", session.far.kind), ("answers", session.where)])


def _info(session: Session) -> View:
    info = session.opened.model.info
    return Fields(
        [
            ("model", session.model.name),
            ("architecture", info.architecture),
            ("file type", info.file_type),
            ("parameters", Count(info.n_params)),
            ("size", Bytes(info.size_bytes)),
            ("trained context", info.n_ctx_train),
            ("runs", session.where),
            ("file", str(session.model.path)),
        ]
    )


def help_(repl: Repl, rest: str) -> None:
    if rest:
        name = rest if rest.startswith("/") else f"/{rest}"
        command = find(name, repl.commands)
        repl.sink.note(f"{command.name} {command.args}".rstrip() + f"\n  {command.help}")
        return
    rows = [(f"{c.name} {c.args}".rstrip(), c.help) for c in repl.commands]
    repl.sink.present(Table(("command", "what it does"), rows))
    repl.sink.note(
        'Alt-Enter, or """ before and after: several lines. Ctrl-C stops an answer, Ctrl-R '
        "searches what you typed, Ctrl-X Ctrl-E opens an editor, Ctrl-D leaves."
    )


def exit_(repl: Repl, rest: str) -> bool:
    return True


def stats_line(a: Answer) -> str:
    """Speeds and counts of an answer, as a sentence for people."""
    rates = []
    if a.prompt_tps is not None:
        rates.append(f"pp {Rate(a.prompt_tps)}")
    if a.decode_tps is not None:
        rates.append(f"tg {Rate(a.decode_tps)}")
    draft = ""
    if a.drafted is not None and a.accepted is not None:
        share = f" ({a.accepted / a.drafted:.0%})" if a.drafted else ""
        faster = f", about {a.draft_speedup:.2f} times as fast" if a.draft_speedup else ""
        draft = f"; {a.accepted} of {a.drafted} drafted tokens accepted{share}{faster}"
    context = f"{a.context_tokens} of {a.n_ctx}" if a.n_ctx else f"{a.context_tokens} tokens"
    seed = f"; seed {a.seed}" if a.seed is not None else ""
    about = "about " if a.estimated else ""
    cost = f"; cost {about}{a.cost:.4g}" if a.cost is not None else ""
    by = f"; by {a.remote_model}" if a.remote_model is not None else ""
    return (
        f"{about}{a.prompt_tokens} tokens in ({a.cached_tokens} cached), "
        f"{about}{a.completion_tokens} out; "
        f"{', '.join([*rates, f'first token after {Seconds(a.first_token_s)}'])}{draft}; "
        f"context {context}; {a.finish_reason}{seed}{cost}{by}"
    )


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return json.dumps(list(value), ensure_ascii=False)
    if isinstance(value, bool):
        return "on" if value else "off"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


COMMANDS = (
    Command("/set", "[NAME [VALUE]]", "Show or change settings; - goes back to the model's own.",
            set_, "setting"),
    Command("/model", "[NAME]", "Go on with another model.", model, "model"),
    Command("/show", f"[{'|'.join(SHOWN)}]", "Show what is known of the model.", show, "show"),
    Command("/tokens", "[TEXT]", "How full the context is, or how many tokens a text has.", tokens),
    Command("/stats", "", "Speeds and counts of the last answer.", stats),
    Command("/help", "[COMMAND]", "This list.", help_, "command", ("/?",)),
    Command("/exit", "", "Leave.", exit_, others=("/bye", "/quit")),
)  # fmt: skip
