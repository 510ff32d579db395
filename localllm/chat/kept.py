"""A conversation on disk: written after each message, read again to go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from localllm.chat.conversation import Conversation, Entry
from localllm.errors import DamagedFile, LocalLLMError, NotFound
from localllm.registry.chats import ChangedMeanwhile, Chats, KeptMessage

_TITLE_CHARS = 60
_ROLES = ("system", "user", "assistant", "tool")


class Keeper:
    """Keeps one conversation, or none: `number` None has not been kept yet.

    A disk that is full or an unwritable home is told once; the conversation goes on unkept. Where
    another program goes on with the same conversation, each keeps its own.
    """

    def __init__(
        self, chats: Chats, tell: Callable[[str], None], *, on: bool, number: int | None = None
    ) -> None:
        self._chats, self._tell, self.on, self.number = chats, tell, on, number
        self._written: list[KeptMessage] = []
        self._changed_at: float | None = None  # as it was read or written last

    def save(self, conversation: Conversation, model: str) -> None:
        """Write what changed since the last time."""
        messages = [kept(entry) for entry in conversation.entries]
        worth = any(m.role in ("user", "assistant") for m in messages)
        if not self.on or (self.number is None and not worth):
            return
        if not worth:
            self._forget()
            return
        same = 0
        for old, new in zip(self._written, messages, strict=False):
            if old != new:
                break
            same += 1
        if self.number is not None and same == len(messages) == len(self._written):
            return
        try:
            if self.number is None:
                self.number = self._chats.begin(model, title(conversation))
            self._changed_at = self._chats.write(
                self.number, same, messages[same:], model=model, title=title(conversation),
                since=self._changed_at,
            )  # fmt: skip
        except NotFound:
            self.leave()  # removed meanwhile: it is kept anew
            self.save(conversation, model)
            return
        except ChangedMeanwhile as error:
            self.leave()
            self.save(conversation, model)
            if self.number is not None:
                self._tell(f"{error.message}: this one is kept apart, as {self.number}")
            return
        except LocalLLMError as error:
            self.on = False
            self._tell(f"this conversation is not kept: {error.message}")
            return
        self._written = messages

    def _forget(self) -> None:
        """Nothing is left of the conversation: it need not be listed."""
        number, seen = self.number or 0, self._changed_at
        self.leave()
        try:
            if seen is None or self._chats.find(number).changed_at == seen:
                self._chats.remove(number)
        except LocalLLMError:
            return

    def resume(self, number: int) -> Conversation:
        """The conversation `number`, which this keeper goes on writing. Raises NotFound."""
        changed_at = self._chats.find(number).changed_at  # first: so no change goes unseen
        found = self._chats.messages(number)
        # as `kept` makes them, or all would be written again, and be of now
        self._written = [replace(message, made_at=0.0) for message in found]
        self.number, self._changed_at = number, changed_at
        return Conversation([entry(message) for message in found])

    def leave(self) -> None:
        """What comes is another conversation."""
        self.number, self._written, self._changed_at = None, [], None


def title(conversation: Conversation) -> str:
    """The beginning of the first question, on one line."""
    first = next((e.content for e in conversation.entries if e.role == "user"), "")
    words = " ".join(first.split())
    return words if len(words) <= _TITLE_CHARS else words[: _TITLE_CHARS - 1] + "…"


def kept(one: Entry) -> KeptMessage:
    """An entry as it is written; what is as usual is left out."""
    usual = Entry(one.role, one.content)
    names = ("thinking", "extra", "model", "finish", "sight", "is_summary")
    values = {name: getattr(one, name) for name in names}
    data = {n: dict(v) if n == "extra" else v for n, v in values.items() if v != getattr(usual, n)}
    return KeptMessage(one.role, one.content, data, one.images)


def entry(message: KeptMessage) -> Entry:
    """Back again. Raises DamagedFile for what no version wrote."""
    data = message.data
    return entry_of({"role": message.role, "content": message.content, **data}, message.attachments)


def entry_of(data: Mapping[str, Any], images: tuple[bytes, ...] = ()) -> Entry:
    """An entry from its JSON form, of our own making or any list of chat messages.

    Raises DamagedFile."""
    role, content = data.get("role"), data.get("content")
    extra = data.get("extra") or {}
    if role not in _ROLES or not isinstance(content, str) or not isinstance(extra, Mapping):
        raise DamagedFile("a message of this conversation has no role or no text")
    sight = data.get("sight", "seen")
    return Entry(
        role,
        content,
        thinking=str(data.get("thinking") or ""),
        images=images,
        extra=dict(extra),
        model=data.get("model"),
        finish=data.get("finish"),
        sight=sight if sight in ("dropped", "summarized") else "seen",
        is_summary=bool(data.get("is_summary")),
    )
