"""Which view an answer goes to."""

from __future__ import annotations

from localllm.chat.settings import ChatSettings
from localllm.ui import AnswerView, Sink, answer_view


def view_for(sink: Sink, settings: ChatSettings, *, markdown: bool = True) -> AnswerView:
    """Thinking is shown where it was asked for, and by default where a person reads."""
    auto = "show" if sink.is_terminal else "hide"
    shown = auto if settings.thinking == "auto" else settings.thinking
    return answer_view(
        sink,
        thinking="show" if shown == "show" else "hide",
        markdown=markdown and settings.markdown,
    )
