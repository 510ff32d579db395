"""A person as a member: the question waits in the inbox until somebody answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from localllm.generation import Accounting, Message
from localllm.registry.inbox import ANSWERED, EXPIRED, WITHDRAWN, Inbox
from localllm.route.answering.stream import NobodyAnswered
from localllm.toolcalls import Part, TextPart

if TYPE_CHECKING:
    from localllm.endpoints import Wanted

_LOOK_S = 0.3  # between two looks into the inbox


class PersonStream:
    """A MemberStream whose only part is the person's answer. The question is put into the inbox
    when the stream is first read."""

    def __init__(
        self, inbox: Inbox, router: str, wanted: Wanted, wait_s: float, decision: int | None,
        draft: Callable[[], str | None] = lambda: None,
    ) -> None:  # fmt: skip
        self.accounting: Accounting | None = None
        self.model: str | None = "human"
        self.number: int | None = None
        self._inbox, self._router, self._wanted = inbox, router, wanted
        self._wait_s, self._decision, self._draft = wait_s, decision, draft
        self._cancelled = threading.Event()
        self._began = time.perf_counter()

    def next_part(self) -> Part | None:
        """Raises NobodyAnswered."""
        if self.accounting is not None:
            return None
        if self.number is None:
            self.number = self._ask()
        while True:
            item = self._inbox.find(self.number)
            if item.state == ANSWERED and item.answer is not None:
                self._end("stop")
                return TextPart(item.answer)
            if self._cancelled.is_set():
                if self._inbox.end(self.number, WITHDRAWN):
                    self._end("cancelled")
                    return None
            elif time.time() >= item.expires_at:
                if self._inbox.end(self.number, EXPIRED):
                    self._end("cancelled")
                    raise NobodyAnswered(
                        f"nobody answered within {self._wait_s:g} s", "localllm route inbox list"
                    )
            else:
                self._cancelled.wait(_LOOK_S)

    def cancel(self) -> None:
        self._cancelled.set()

    def _ask(self) -> int:
        messages = [_plain(message) for message in self._wanted.messages or ()]
        return self._inbox.ask(self._router, messages, self._wait_s, self._decision, self._draft())

    def _end(self, reason: str) -> None:
        took = time.perf_counter() - self._began
        self.accounting = Accounting(
            prompt_tokens=0, cached_tokens=0, completion_tokens=0, prompt_s=0.0, decode_s=0.0,
            first_token_s=took, finish_reason=reason,  # type: ignore[arg-type]
            seed=-1,
        )  # fmt: skip


def _plain(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}
