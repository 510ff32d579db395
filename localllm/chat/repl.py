"""A conversation at a terminal: a message in, the answer streamed out, commands with a slash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from localllm.chat import comparing, controls, judging, turns
from localllm.chat.answer import Answer
from localllm.chat.commands import Command, is_command, run
from localllm.chat.completion import Completer
from localllm.chat.controls import stats_line
from localllm.chat.conversation import Entry
from localllm.chat.session import LoadWishes, Session
from localllm.chat.showing import view_for
from localllm.chat.switching import switch
from localllm.chat.talk import Talk
from localllm.errors import LocalLLMError
from localllm.library.answering import Far, Judgeable
from localllm.registry import Model, Registry
from localllm.registry.chats import Chats
from localllm.registry.history import InputHistory
from localllm.ui import Prompt, Sink, keys_unseen, prompt_for

HINT = "Send a message (/? for help)"
NO_TEMPLATE = "no chat template (a base model?): asked as a plain dialogue, or see --raw"
_RECAP_CHARS = 300


@dataclass
class Repl:
    """What the commands work on."""

    talk: Talk
    registry: Registry
    sink: Sink
    wishes: LoadWishes
    prompt: Prompt
    chats: Chats
    commands: tuple[Command, ...] = (
        *turns.COMMANDS, *judging.COMMANDS, *comparing.COMMANDS, *controls.COMMANDS,
    )  # fmt: skip
    attached: list[str] = field(default_factory=list)  # files for the next message
    images: list[bytes] = field(default_factory=list)
    compared: comparing.Compared | None = None  # two answers that wait for a vote
    edited: Entry | None = None  # the question that the next message takes the place of

    def loop(self) -> None:
        """Read and answer until the input ends. What cannot be done is said, and it goes on."""
        while True:
            try:
                text = self.prompt.read(self.edited.content if self.edited else "")
            except KeyboardInterrupt:
                self.edited = None
                self.sink.note("(Ctrl-D or /exit leaves)")
                continue
            if text is None or self._take(_clean(text)):
                return

    def _take(self, text: str) -> bool:
        """One message or command; whether the conversation ends."""
        try:
            if is_command(text):
                return run(self, text)
            if text.startswith("//"):
                text = text[1:]
            if text.strip():
                self._say(text)
        except LocalLLMError as error:
            self._error(error)
        except KeyboardInterrupt:
            self.sink.note("stopped")
        return False

    def _say(self, text: str) -> None:
        edited, self.edited = self.edited, None
        message = "\n\n".join([*self.attached, text])
        files, sent = list(self.attached), list(self.images)
        self.attached.clear()
        self.images.clear()
        if edited is not None:
            answer = self.ask_instead(message, (*edited.images, *sent))
        else:
            answer = self.speak(message, sent)
        if answer is None and (files or sent):
            self.attached, self.images = files, sent
            self.sink.note("what was attached waits for your next message (/file - forgets it)")

    def ask_instead(self, text: str, images: Sequence[bytes]) -> Answer | None:
        """Ask in place of the last question, which stays with its answer where there is none."""
        conversation = self.talk.conversation
        before = list(conversation.entries)
        conversation.undo()
        answer = self.speak(text, images)
        if answer is None:
            conversation.entries = before
            self.talk.keeper.save(conversation, self.talk.session.name)
        return answer

    def speak(self, text: str, images: Sequence[bytes] = ()) -> Answer | None:
        """Ask and show; None where there is no answer, which was said."""
        try:
            with keys_unseen():
                answer = self.talk.ask(text, images)
        except LocalLLMError as error:
            self._error(error)
            return None
        except KeyboardInterrupt:
            self.sink.note("stopped; the question is taken back")
            return None
        self._comment(answer)
        said = answer.text or answer.thinking or answer.finish_reason != "cancelled"
        return answer if said else None

    def _comment(self, answer: Answer) -> None:
        if answer.finish_reason == "cancelled":
            kept = answer.text or answer.thinking
            self.sink.note("(stopped)" if kept else "stopped; the question is taken back")
        elif answer.truncated:
            self.sink.note(_cut_off(self.talk, answer))
        elif answer.finish_reason == "length":
            self.sink.note(f"(ended after {answer.completion_tokens} tokens, as max_tokens says)")
        if self.talk.settings.stats:
            self.sink.note(stats_line(answer))
        generator = self.talk.session.generator
        if isinstance(generator, Judgeable) and generator.comment:
            self.sink.note(f"{generator.comment}  (/good, /bad)")

    def _error(self, error: LocalLLMError) -> None:
        self.sink.note(f"error: {error.message}" + (f"\n  try: {error.hint}" if error.hint else ""))

    # --- for the commands ----------------------------------------------------------------

    def switch_to(self, model: Model | Far) -> None:
        """Go on with `model`; the conversation stays. Raises what `switch` raises."""
        talk, before = self.talk, self.wishes
        talk.session = switch(talk.session, model, self.wishes, self.sink.progress, talk.settings)
        self.wishes = replace(self.wishes, adapters=(), draft=None, mmproj=None, template=None)
        self.sink.note(f"{model.name}: {talk.session.where}")
        if self.wishes != before:
            self.sink.note("adapters, draft, projector and template were the other model's")
        if talk.tools is not None and not talk.offered:
            self.sink.note("this model calls no tools")
        if isinstance(talk.session, Session) and talk.session.prompting.is_plain:
            self.sink.note(NO_TEMPLATE)
        self.settings_changed("overflow", "thinking")

    def settings_changed(self, *names: str) -> None:
        """Draw answers as the settings say now, and tell what this model cannot do of those
        named."""
        self.talk.view = view_for(self.sink, self.talk.settings)
        settings, session = self.talk.settings, self.talk.session
        if not isinstance(session, Session):
            if "overflow" in names and settings.overflow != "stop":
                self.sink.note(f"the context of {session.name} is its server's: overflow is stop")
            return
        off = "thinking" in names and settings.thinking == "off"
        if off and not session.prompting.can_switch_thinking:
            self.sink.note("this model's template has no switch for thinking: it is hidden")

    def recap(self) -> None:
        """The last question and its answer, to go on from."""
        conversation = self.talk.conversation
        turns = conversation.turns()
        last = conversation.entries[turns[-1].start :] if turns else []
        for entry in [*last[:1], *[e for e in last if e.role == "assistant"][-1:]]:
            if entry is not None:
                text = " ".join(entry.content.split())
                short = text if len(text) <= _RECAP_CHARS else text[: _RECAP_CHARS - 1] + "…"
                self.sink.note(f"{'>>> ' if entry.role == 'user' else ''}{short}")
        if len(last) == 1:
            self.sink.note("(it has no answer: /retry asks it again, /undo takes it back)")


def converse(
    talk: Talk, registry: Registry, sink: Sink, wishes: LoadWishes, chats: Chats,
    files: Sequence[str] = (), images: Sequence[bytes] = (),
) -> Repl:  # fmt: skip
    """Talk until the user leaves; `files` and `images` go with the first message. The session is
    closed then: it may be another than the first."""
    repl = Repl(
        talk, registry, sink, wishes, _NoPrompt(), chats, attached=list(files), images=list(images)
    )
    if talk.conversation.turns():
        repl.recap()
    repl.prompt = prompt_for(sink, InputHistory(registry), Completer(repl), HINT)
    if talk.tools is not None:
        names = ", ".join(tool.name for tool in talk.tools.tools)
        sink.note(f"the model may call: {names}")
    try:
        repl.loop()
    finally:
        repl.talk.session.close()
    return repl


def _cut_off(talk: Talk, answer: Answer) -> str:
    if not isinstance(talk.session, Session):
        return f"{talk.session.name} cut the answer off (/undo, /clear: a shorter conversation)"
    return (
        f"the context of {answer.n_ctx} tokens is full; the answer was cut off "
        "(/set overflow shift or summarize, /undo, /clear, or --ctx)"
    )


class _NoPrompt:
    """Before there is one: it wants to know what it completes."""

    def read(self, default: str = "") -> str | None:
        return None

    def confirm(self, question: str) -> str:
        return ""


def _clean(text: str) -> str:
    """Bytes that were no UTF-8 arrive as lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
