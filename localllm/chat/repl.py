"""A plain conversation at a terminal: a line in, the answer streamed out."""

from __future__ import annotations

from collections.abc import Callable

from localllm.chat.answer import Answer, answer
from localllm.chat.session import Session
from localllm.errors import LocalLLMError
from localllm.generation import Message, Sampling
from localllm.ui import Sink

_HELP = "Type a message and press Enter. Ctrl-C stops an answer; Ctrl-D or /exit leaves."


def converse(
    session: Session,
    messages: list[Message],
    sampling: Sampling,
    sink: Sink,
    stats: Callable[[Answer], str] | None,
) -> None:
    """Read messages until the input ends. A message that cannot be answered is said and left
    out; the conversation goes on."""
    _line_editing()
    sink.note(_HELP)
    while (text := _read(sink)) is not None:
        if text.strip() in ("/exit", "/quit", "/bye"):
            return
        if text.strip() == "/help":
            sink.note(_HELP)
        if not text.strip() or text.strip() == "/help":
            continue
        asked = [*messages, Message("user", text)]
        try:
            said = answer(session.generator, asked, sampling, sink.write, n_ctx=session.n_ctx)
        except LocalLLMError as e:
            sink.note(f"error: {e.message}" + (f"\n  try: {e.hint}" if e.hint else ""))
            continue
        sink.write("\n")
        if said.truncated:
            sink.warn(f"the context of {session.n_ctx} tokens is full; the answer was cut off")
        if stats is not None:
            sink.note(stats(said))
        messages[:] = [*asked, Message("assistant", said.text)]


def _read(sink: Sink) -> str | None:
    """One line; None at the end of the input. Ctrl-C at the prompt clears the line."""
    while True:
        try:
            return input(">>> ")
        except EOFError:
            sink.note("")
            return None
        except KeyboardInterrupt:
            sink.note("\n(Ctrl-D leaves)")


def _line_editing() -> None:
    """Arrow keys and history where the system has readline."""
    try:
        import readline  # noqa: F401 - importing it is what switches it on
    except ImportError:
        return
