"""From what was wanted on the command line to an answer or a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from localllm.chat.answer import Answer, Speaker, finished
from localllm.chat.controls import stats_line
from localllm.chat.conversation import Conversation
from localllm.chat.defaults import first_entries
from localllm.chat.far import FarAsk, FarSession, open_far
from localllm.chat.files import as_message, read_image, read_text
from localllm.chat.kept import Keeper
from localllm.chat.piped import Piped
from localllm.chat.repl import HINT, NO_TEMPLATE, converse
from localllm.chat.session import LoadWishes, Session, open_wished
from localllm.chat.settings import ChatSettings
from localllm.chat.showing import view_for
from localllm.chat.talk import Talk
from localllm.chat.tools import ToolBox, open_tools
from localllm.chat.tools.asking import asker
from localllm.errors import ExitCode, Interrupted, UsageProblem
from localllm.library.answering import Far, Judgeable
from localllm.library.describe import loose_model
from localllm.library.merging.kin import stranger
from localllm.registry import Model, Registry
from localllm.registry.chats import Chats
from localllm.ui import Sink

_ASK = "localllm chat MODEL 'a prompt'"


@dataclass(frozen=True)
class Wanted:
    """What the command line says. `patient` waits for stdin however long; `save` None is yes for
    a conversation where `save_by_default`, no for one question."""

    model: Model | Far
    prompt: str | None
    piped: Piped | None
    patient: bool
    system: str | None
    files: tuple[Path, ...]
    images: tuple[Path, ...]
    raw: bool
    resume: bool
    chat_id: int | None
    save: bool | None
    save_by_default: bool
    grammar: str | None
    settings: ChatSettings
    tools: tuple[str, ...]
    yes_tools: bool
    tool_timeout_s: float
    schema: Mapping[str, Any] | bool | None = None

    @property
    def is_one_shot(self) -> bool:
        return self.prompt is not None or self.piped is not None

    @property
    def keeps(self) -> bool:
        if self.save is not None:
            return self.save
        goes_on = self.resume or self.chat_id is not None
        return self.save_by_default and (goes_on or not self.is_one_shot)


def hold(wanted: Wanted, wishes: LoadWishes, registry: Registry, sink: Sink) -> None:
    """Load the model and answer, or talk until the user leaves. Raises what that raises."""
    if wanted.raw and (wanted.files or wanted.images):
        raise UsageProblem("--raw continues a text: it takes no --file and no --image")
    if wanted.raw and not wanted.is_one_shot:
        raise UsageProblem("--raw continues a text: give it as PROMPT or on stdin")
    images = [read_image(path) for path in wanted.images]
    files = [as_message(path, read_text(path)) for path in wanted.files]
    chats = Chats.of(registry)
    keeper = Keeper(chats, sink.warn, on=wanted.keeps)
    conversation = _conversation(wanted, keeper, chats)
    tools = open_tools(wanted.tools, asker(sink, wanted.yes_tools), wanted.tool_timeout_s)
    try:
        _hold(
            wanted,
            wishes,
            registry,
            sink,
            _Ready(chats, keeper, conversation, tools, files, images),
        )
    finally:
        if tools is not None:
            tools.close()


@dataclass(frozen=True)
class _Ready:
    """What was opened before the model is loaded."""

    chats: Chats
    keeper: Keeper
    conversation: Conversation
    tools: ToolBox | None
    files: Sequence[str]
    images: Sequence[bytes]


def _hold(
    wanted: Wanted, wishes: LoadWishes, registry: Registry, sink: Sink, ready: _Ready
) -> None:
    # No sense in loading gigabytes for a pipe that turns out empty
    alone = wanted.prompt in (None, "-") and wanted.is_one_shot
    text = _text(wanted, ready.files, sink) if alone else None
    session = _opened(wanted, wishes, sink)
    try:
        _advise(session, wanted, sink)
        _warn_of_strangers(wanted.model, wishes, registry, sink)
        if ready.images:
            session.require_images()
        view = view_for(sink, wanted.settings, markdown=not wanted.raw)
        talk = Talk(
            session, ready.conversation, wanted.settings, ready.keeper, view, sink.note,
            wanted.grammar, ready.tools, schema=wanted.schema,
        )  # fmt: skip
        if ready.tools is not None and not talk.offered:
            raise UsageProblem(f"{wanted.model.name} calls no tools: its chat template has none")
        if wanted.is_one_shot:
            text = _text(wanted, ready.files, sink) if text is None else text
            _one_shot(talk, text, ready.images, wanted.raw, sink)
            return
    except BaseException:
        session.close()
        raise
    sink.note(f"{HINT}; Ctrl-C stops an answer, Ctrl-D leaves.")
    repl = converse(talk, registry, sink, wishes, ready.chats, ready.files, ready.images)
    if repl.talk.keeper.number is not None:
        sink.note(f"kept: localllm chat MODEL --chat {repl.talk.keeper.number}")


def _opened(wanted: Wanted, wishes: LoadWishes, sink: Sink) -> Session | FarSession:
    if isinstance(wanted.model, Model):
        return open_wished(wanted.model, wishes, sink.progress)
    if wanted.raw:
        raise UsageProblem("--raw needs a model of this machine")
    return open_far(wanted.model, wishes, wanted.settings)


def _conversation(wanted: Wanted, keeper: Keeper, chats: Chats) -> Conversation:
    if not wanted.resume and wanted.chat_id is None:
        model = wanted.model if isinstance(wanted.model, Model) else None
        return Conversation(first_entries(model, wanted.system))
    number = wanted.chat_id if wanted.chat_id is not None else chats.latest().id
    conversation = keeper.resume(number)
    if wanted.system is not None:
        conversation.set_system(wanted.system)
    return conversation


def _text(wanted: Wanted, files: Sequence[str], sink: Sink) -> str:
    """The prompt: what was said, what was piped in after it, and files before."""
    said = "" if wanted.prompt in (None, "-") else wanted.prompt or ""
    piped = ""
    if wanted.piped is not None:
        came = wanted.piped.wait(patient=wanted.patient or not said)
        if came is None:
            sink.note("nothing came from stdin: answering the prompt alone (--stdin waits)")
        # `--raw` continues the text exactly as it stands
        piped = came or "" if wanted.raw else (came or "").rstrip("\r\n")
    if wanted.raw:
        text = said + piped
    else:
        text = "\n\n".join(part for part in (*files, said, piped) if part.strip())
    if not text.strip():
        empty = "stdin" if wanted.prompt in (None, "-") else "the prompt"
        raise UsageProblem(f"nothing to answer: {empty} is empty", _ASK)
    return text


def _warn_of_strangers(
    model: Model | Far, wishes: LoadWishes, registry: Registry, sink: Sink
) -> None:
    """Adapters that were trained on another model: llama.cpp looks at shapes alone."""
    if not isinstance(model, Model) or model.digest is None:
        return  # nobody knows what it is, and to hash it takes longer than the answer
    for path, _ in wishes.adapters:
        found = stranger(replace(loose_model(path), name=path.name), model, registry)
        if found is not None:
            sink.warn(found[1])


def _advise(session: Session | FarSession, wanted: Wanted, sink: Sink) -> None:
    if not isinstance(session, Session):
        ask = FarAsk(wanted.settings, wanted.grammar, wanted.schema)
        if unsent := session.far.unsent(ask.wanted(Conversation())):
            sink.warn(f"{session.name} is not told {', '.join(unsent)}: its server knows no such "
                      "setting (localllm endpoint add --kind)")  # fmt: skip
        sink.note(session.where)
        return
    for advice in session.opened.advice:
        sink.warn(advice.message + (f"; try: {advice.hint}" if advice.hint else ""))
    sink.note(session.where)
    if session.prompting.is_plain and not wanted.raw:
        sink.note(NO_TEMPLATE)
    if wanted.settings.thinking == "off" and not session.prompting.can_switch_thinking:
        sink.warn("this model's template has no switch for thinking: it is hidden")


def _one_shot(talk: Talk, text: str, images: Sequence[bytes], raw: bool, sink: Sink) -> None:
    result = _continued(talk, text) if raw else talk.ask(text, images)
    if result.truncated:
        local = isinstance(talk.session, Session)
        sink.warn(
            f"the context of {result.n_ctx} tokens is full; the answer was cut off "
            "(--ctx, or --overflow shift)"
            if local
            else f"{talk.session.name} cut the answer off: its context is full, or it has a limit"
        )
    if talk.settings.stats:
        sink.note(stats_line(result))
    session = talk.session
    if isinstance(session.generator, Judgeable) and session.generator.comment:
        sink.note(session.generator.comment)
    session.close()
    cancelled = result.finish_reason == "cancelled"
    sink.show(
        result,
        ok=not cancelled,
        exit_code=ExitCode.INTERRUPTED,
        error=Interrupted("interrupted; the answer is not complete") if cancelled else None,
    )


def _continued(talk: Talk, text: str) -> Answer:
    """--raw: no template, no thinking told apart, nothing kept."""
    assert isinstance(talk.session, Session)  # others were refused
    asked = talk.session.prompting.raw(text)
    spoken = Speaker(talk.session, talk.view).speak(asked, talk.sampling, thinks=False)
    return finished(talk.session, spoken, ())
