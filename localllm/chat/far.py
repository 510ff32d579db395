"""A conversation with somebody who is no model of this process: an endpoint, a router.

What needs a model's own tokens is not there: counting them, --raw, adapters, drafts, and making
room in a full context, which is the server's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from localllm.chat.answer import Spoken
from localllm.chat.conversation import Conversation
from localllm.chat.session import LoadWishes
from localllm.chat.settings import ChatSettings
from localllm.closing import Closing
from localllm.errors import UsageProblem
from localllm.generation import Sampling
from localllm.library.answering import Far, FarGenerator, FarStream, Judgeable
from localllm.toolcalls import TextPart, Tool

if TYPE_CHECKING:
    from localllm.endpoints import Wanted
    from localllm.ui.answer import AnswerView


@dataclass
class FarSession(Closing):
    """What answers from elsewhere. Close it when done."""

    far: Far
    generator: FarGenerator
    model: None = None
    load_s: None = None

    @property
    def name(self) -> str:
        return self.far.name

    @property
    def n_ctx(self) -> int | None:
        return self.far.n_ctx

    @property
    def sampling(self) -> Sampling:
        """Only what the user says is sent: everything else is decided elsewhere."""
        return Sampling()

    @property
    def where(self) -> str:
        context = f", context {self.n_ctx}" if self.n_ctx else ""
        return f"{self.far.where}{context}"

    def require_images(self) -> None:
        """Whether it sees images is said by who answers."""

    def close(self) -> None:
        self.generator.close()


def open_far(far: Far, wishes: LoadWishes, settings: ChatSettings) -> FarSession:
    """Raises UsageProblem for what only models of this process do, and what opening raises."""
    check_wishes(far, wishes, settings)
    return FarSession(far, far.open())


def check_wishes(far: Far, wishes: LoadWishes, settings: ChatSettings) -> None:
    """Refuse what would silently not happen. Raises UsageProblem."""
    given = {
        "--lora": wishes.adapters, "--draft": wishes.draft, "--mmproj": wishes.mmproj,
        "--template": wishes.template, "--require-gpu": wishes.require_gpu,
        "--kv, --n-gpu-layers and --flash-attn": wishes.said,
    }  # fmt: skip
    for option, value in given.items():
        if value:
            raise UsageProblem(f"{far.name} is no model of this machine: it takes no {option}")
    if settings.overflow != "stop":
        raise UsageProblem(
            f"--overflow {settings.overflow} needs a model of this machine; the context of "
            f"{far.name} is its server's",
            "--overflow stop",
        )


@dataclass(frozen=True)
class FarAsk:
    """How one answer is asked for. `forced` is GBNF, `schema` the JSON schema that it was made
    from, if it was."""

    settings: ChatSettings
    forced: str | None = None
    schema: Mapping[str, Any] | bool | None = None
    tools: Sequence[Tool] = ()

    def wanted(self, conversation: Conversation) -> Wanted:
        from localllm.endpoints import Wanted

        sampling = replace(self.settings.sampling(Sampling()), grammar=self.forced)
        return Wanted(
            messages=tuple(conversation.messages("reasoning_content")),
            sampling=sampling,
            given=frozenset(self.settings.given),
            schema=self.schema,
            tools=tuple(self.tools),
            variables=_variables(self.settings),
        )


def speak(session: FarSession, conversation: Conversation, ask: FarAsk, view: AnswerView) -> Spoken:
    """Let it answer, and show that as it comes. Ctrl-C ends the answer with finish reason
    `cancelled`. Raises what asking raises."""
    return spoken_of(session.generator.ask(ask.wanted(conversation)), view)


def failures(session: FarSession) -> list[str]:
    """Of the last answer: which members of a router could not give it, and why."""
    generator = session.generator
    about = generator.about if isinstance(generator, Judgeable) else None
    found = about["failures"] if about is not None else ()
    return [f"{one['member']} could not answer: {one['message']}" for one in found]


def spoken_of(stream: FarStream, view: AnswerView) -> Spoken:
    """The same of an answer that was asked for already."""
    parts = stream.parts()
    texts: list[str] = []
    try:
        while True:
            try:
                part = next(parts, None)
                if part is None:
                    break
                if isinstance(part, TextPart) and part.thinking:
                    view.thinking(part.text)
                elif isinstance(part, TextPart):
                    texts.append(part.text)
                    view.answer(part.text)
            except KeyboardInterrupt:
                stream.cancel()
    finally:
        view.end()
    account = stream.accounting
    assert account is not None  # iteration has ended
    used = account.prompt_tokens + account.completion_tokens
    return Spoken("".join(texts), stream.thinking.strip(), account, used, stream.calls)


def _variables(settings: ChatSettings) -> Mapping[str, Any]:
    """What chat templates ask for: nothing where the user said nothing."""
    if settings.thinking == "auto":
        return {}
    return {"enable_thinking": settings.thinking != "off"}
