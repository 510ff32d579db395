"""What became of one question: who answered, why, and who could not."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from localllm.generation import Message

REMEMBERED = 10_000  # conversations
_VERSION = re.compile(r"(?:[-@:](?:v?[\d.-]+|latest))?(?:\.gguf)?")


@dataclass(frozen=True)
class Failed:
    """A member that could not answer, and why."""

    member: str
    kind: str
    message: str


@dataclass(frozen=True)
class Routing:
    """What became of one question. `member` answers (so far), `chosen` was the router's choice;
    `sticky`: the conversation stayed with the member that began it. `cost` is the answer's own
    once it has ended, before that what was expected. `decision` is its number for feedback. `says`:
    what an endpoint calls who answered, where that is another model than it was asked for.
    `doubt`: what it counted that cannot be; `estimated`: the tokens that `cost` is of are an
    estimate, since it counted none, or none that can be believed."""

    router: str
    version: int
    member: str
    chosen: str
    model: str
    outside: bool
    why: str
    probability: float | None = None
    threshold: float | None = None
    cost: float | None = None
    cost_unit: str = "money"
    sticky: bool = False
    escalated: bool | None = None  # of a cascade
    signals: Mapping[str, float] = field(default_factory=dict)
    guard: Mapping[str, Any] = field(default_factory=dict)
    failures: tuple[Failed, ...] = ()
    decision: int | None = None
    says: str | None = None
    doubt: str | None = None
    estimated: bool = False


def another_model(asked: str | None, said: str | None) -> bool:
    """Whether an endpoint names another model than the one it was asked for. Folders, letters'
    case and the date or number of a version ("-2024-08-06") are no other model."""
    if not asked or not said:
        return False
    names = [name.replace("\\", "/").rsplit("/", 1)[-1].casefold() for name in (asked, said)]
    short, long = sorted(names, key=len)
    return not long.startswith(short) or not _VERSION.fullmatch(long[len(short) :])


class Sticky:
    """Which member began a conversation, known by what stands before its first answer. Safe from
    any thread. Two that begin with the same words are taken for one: no more is kept of a
    conversation than the member's name, so one may go on with the member of the other."""

    def __init__(self, kept: Callable[[Sequence[Message]], str | None] = lambda m: None) -> None:
        """`kept` is asked for conversations that did not begin here."""
        self._kept = kept
        self._members: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, messages: Sequence[Message]) -> str | None:
        """Of a conversation that goes on; None for one that begins."""
        if not any(message.role == "assistant" for message in messages):
            return None
        with self._lock:
            found = self._members.get(conversation_key(messages))
        return self._kept(messages) if found is None else found

    def keep(self, messages: Sequence[Message], member: str) -> None:
        with self._lock:
            self._members[conversation_key(messages)] = member
            self._members.move_to_end(conversation_key(messages))
            while len(self._members) > REMEMBERED:
                self._members.popitem(last=False)


def conversation_key(messages: Sequence[Message]) -> str:
    """Of a conversation: what stands before the first answer."""
    digest = hashlib.sha256()
    for message in messages:
        if message.role == "assistant":
            break
        digest.update(f"{message.role}\0{message.content}\0".encode("utf-8", "replace"))
    return digest.hexdigest()
