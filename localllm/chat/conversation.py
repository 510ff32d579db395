"""A conversation as it was said, and what the model is shown of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

from localllm.generation import Message, Role

# Out of the model's sight: it no longer fits, or a summary stands for it.
Sight = Literal["seen", "dropped", "summarized"]


@dataclass(frozen=True)
class Entry:
    """One message. `thinking` is told apart from what was said; `extra` goes to the template
    (tool_calls, tool_call_id, name); `model` is who said it; `finish` how an answer ended."""

    role: Role
    content: str
    thinking: str = ""
    images: tuple[bytes, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    finish: str | None = None
    sight: Sight = "seen"
    is_summary: bool = False


class Conversation:
    """Entries in order. A turn is a user's message and all that follows until the next."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self.entries: list[Entry] = list(entries)

    @property
    def system(self) -> str | None:
        """The system message; summaries of earlier turns stand apart."""
        return next(
            (e.content for e in self.entries if e.role == "system" and not e.is_summary), None
        )

    def set_system(self, text: str) -> None:
        """Let `text` stand in front of everything; "" takes it away."""
        rest = [e for e in self.entries if e.role != "system" or e.is_summary]
        self.entries = [Entry("system", text), *rest] if text.strip() else rest

    def turns(self) -> list[range]:
        """Places of the entries of each turn."""
        starts = [n for n, e in enumerate(self.entries) if e.role == "user"]
        return [range(*pair) for pair in pairwise([*starts, len(self.entries)])]

    def seen_turns(self) -> list[range]:
        return [turn for turn in self.turns() if self.entries[turn.start].sight == "seen"]

    def hide(self, turns: Sequence[range], sight: Sight) -> int:
        """Take turns out of the model's sight; how many messages these are."""
        places = [n for turn in turns for n in turn]
        for n in places:
            self.entries[n] = replace(self.entries[n], sight=sight)
        return len(places)

    def summarize(self, turns: Sequence[range], text: str) -> None:
        """Let `text` stand for `turns` and for earlier summaries."""
        self.hide(turns, "summarized")
        self.entries = [replace(e, sight="summarized") if e.is_summary else e for e in self.entries]
        at = turns[-1].stop if turns else 0
        self.entries.insert(at, Entry("system", text, is_summary=True))

    @property
    def question(self) -> Entry | None:
        """The last user's message."""
        return next((e for e in reversed(self.entries) if e.role == "user"), None)

    @property
    def answer(self) -> Entry | None:
        """The last thing that a model said."""
        return next((e for e in reversed(self.entries) if e.role == "assistant"), None)

    def undo(self) -> Entry | None:
        """Take the last turn back; its question, None where there is no turn."""
        turns = self.turns()
        if not turns:
            return None
        question = self.entries[turns[-1].start]
        # a summary that was made on the way stands for earlier turns: it stays
        after = [e for e in self.entries[turns[-1].start :] if e.is_summary]
        self.entries = [*self.entries[: turns[-1].start], *after]
        return question

    def messages(self, replay: str | None = None) -> list[Message]:
        """What the model is shown. The system message and summaries of what it no longer sees are
        one message. Thinking goes back under the key `replay`, for the template to drop or use;
        without one it does not go back."""
        system = [e.content for e in self._seen() if e.role == "system" and not e.is_summary]
        system += [
            f"Summary of the conversation so far:\n{e.content}"
            for e in self._seen()
            if e.is_summary
        ]
        first = [Message("system", "\n\n".join(system))] if system else []
        return first + [_message(e, replay) for e in self._seen() if e.role != "system"]

    def _seen(self) -> Iterator[Entry]:
        return (e for e in self.entries if e.sight == "seen")


def _message(entry: Entry, replay: str | None) -> Message:
    extra = dict(entry.extra)
    if entry.thinking and replay is not None:
        extra[replay] = entry.thinking
    if entry.images:
        extra["images"] = entry.images
    return Message(entry.role, entry.content, extra)
