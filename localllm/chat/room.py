"""Keeping a conversation within the context, by what the user chose with --overflow.

stop: nothing is dropped; a prompt that is too long is refused, an answer ends where the context
does. shift: the oldest whole turns go, but for the system message and what --keep protects; where
one answer alone fills the context, its own beginning goes out of the model's sight. summarize: the
model sums up the oldest turns, and the summary takes their place. Whatever goes is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from localllm.chat.conversation import Conversation
from localllm.chat.prompting import Asked, Prompting
from localllm.chat.settings import ChatSettings
from localllm.errors import UsageProblem
from localllm.generation import Message

_LEAST_ROOM = 16  # tokens of an answer that are worth going on for

# Asks the model for a text: messages, and how many tokens it may have
Write = Callable[[Sequence[Message], int], str]

_REQUEST = (
    "Summarize the following conversation between a user and an assistant in at most {words} "
    "words. Keep names, numbers, decisions, code that matters and questions that are open. "
    "Write the summary and nothing else.\n\n{before}<conversation>\n{text}\n</conversation>"
)


@dataclass(frozen=True)
class Dropped:
    """Something that the model no longer sees. `n_tokens` is by how much the prompt shrank.

    how: "turns" of the conversation, the beginning of this "answer", or turns "summarized".
    """

    how: Literal["turns", "answer", "summarized"]
    n_messages: int
    n_tokens: int
    summary: str | None = None

    def __str__(self) -> str:
        if self.how == "answer":
            return f"the first {self.n_tokens} tokens of this answer are out of the model's sight"
        what = f"the oldest {self.n_messages} messages ({self.n_tokens} tokens)"
        done = "were summed up" if self.how == "summarized" else "are out of the model's sight"
        return f"{what} {done}"


class Room:
    """Makes room in the context of one model. What it drops stands in `dropped`."""

    def __init__(
        self, prompting: Prompting, settings: ChatSettings, n_ctx: int, write: Write,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._prompting, self._settings, self._n_ctx = prompting, settings, n_ctx
        self._write, self._tell = write, tell
        self.dropped: list[Dropped] = []

    def ask(self, conversation: Conversation, max_tokens: int | None) -> Asked:
        """The prompt for the next answer, with room for it made before. Raises UsageProblem where
        it does not fit whatever may be dropped."""
        asked = self._prompting.ask(conversation)
        if self._settings.overflow != "stop":
            reserve = self._n_ctx // 4
            reserve = reserve if max_tokens is None else min(max_tokens, reserve)
            if len(asked.tokens) + reserve > self._n_ctx:
                self._make(conversation, self._n_ctx - reserve)
                asked = self._prompting.ask(conversation)
        if len(asked.tokens) > self._n_ctx:
            raise self._too_long(len(asked.tokens))
        return asked

    def go_on(self, conversation: Conversation, said: Sequence[int]) -> list[int] | None:
        """The context is full in the middle of an answer: the tokens to continue it from, None
        where it has to end. `said` are its tokens so far."""
        if self._settings.overflow == "stop":
            return None
        self._make(conversation, self._n_ctx * 3 // 4 - len(said))
        asked = self._prompting.ask(conversation)
        if asked.media is not None:  # places of images cannot be handed on as tokens
            return None
        prompt = asked.tokens
        space = self._n_ctx - len(prompt)
        if space - len(said) >= max(_LEAST_ROOM, self._n_ctx // 8):
            return [*prompt, *said]
        if self._settings.overflow == "summarize" or space < 4 * _LEAST_ROOM:
            return None
        kept = list(said[-(space // 2) :])
        self._record(Dropped("answer", 0, len(said) - len(kept)))
        return [*prompt, *kept]

    # --- dropping ------------------------------------------------------------------------

    def _make(self, conversation: Conversation, target: int) -> None:
        """Drop the fewest oldest turns that bring the prompt to `target` tokens, or all there are;
        what is summed up goes down to half of it, so that this does not come every turn."""
        turns = self._droppable(conversation)
        summarize = self._settings.overflow == "summarize"
        before = self._prompting.count(conversation)
        if not turns or before <= target:
            return
        n = self._fewest(conversation, turns, target // 2 if summarize else target)
        gone = turns[:n]
        summary = self._summary(conversation, gone) if summarize else ""
        n_messages = sum(map(len, gone))
        if summary:
            conversation.summarize(gone, summary)
        else:
            conversation.hide(gone, "dropped")
        freed = before - self._prompting.count(conversation)
        how: Literal["turns", "summarized"] = "summarized" if summary else "turns"
        self._record(Dropped(how, n_messages, freed, summary or None))

    def _fewest(self, conversation: Conversation, turns: Sequence[range], target: int) -> int:
        low, high = 1, len(turns)
        while low < high:
            middle = (low + high) // 2
            if self._count_without(conversation, turns[:middle]) <= target:
                high = middle
            else:
                low = middle + 1
        return low

    def _count_without(self, conversation: Conversation, turns: Sequence[range]) -> int:
        trial = Conversation(conversation.entries)
        trial.hide(turns, "dropped")
        return self._prompting.count(trial)

    def _droppable(self, conversation: Conversation) -> list[range]:
        """The seen turns but the last, and but those that begin within the tokens to keep."""
        turns = conversation.seen_turns()[:-1]
        keep = self._settings.keep
        if keep == -1:
            return turns[1:]
        while keep and turns and self._begins_at(conversation, turns[0]) < keep:
            turns = turns[1:]
        return turns

    def _begins_at(self, conversation: Conversation, turn: range) -> int:
        """Tokens of the prompt before this turn."""
        before = Conversation(conversation.entries[: turn.start])
        messages = before.messages()
        # A system message alone is refused by some templates: its text is near enough
        if all(message.role == "system" for message in messages):
            return sum(len(self._prompting.encode(message.content)) for message in messages)
        return self._prompting.count(before)

    def _record(self, dropped: Dropped) -> None:
        self.dropped.append(dropped)
        self._tell(f"the context of {self._n_ctx} tokens is full: {dropped}")
        if dropped.summary:
            self._tell(f"summary: {dropped.summary}")

    # --- summing up ----------------------------------------------------------------------

    def _summary(self, conversation: Conversation, turns: Sequence[range]) -> str:
        """What the model makes of these turns and of earlier summaries, "" if nothing. A text
        longer than the context is summed up part by part, each with the summary so far."""
        places = {n for turn in turns for n in turn}
        said = [
            f"{'Summary' if e.is_summary else e.role.capitalize()}: {e.content}"
            for n, e in enumerate(conversation.entries)
            if e.sight == "seen" and (n in places or e.is_summary)
        ]
        length = max(48, self._n_ctx // 8)
        overhead = len(self._prompting.encode(_REQUEST)) + 2 * length + 64
        size = self._n_ctx - overhead
        if size < 32:
            return ""
        tokens = self._prompting.encode("\n\n".join(said))
        summary = ""
        for start in range(0, len(tokens), size):
            text = self._prompting.decode(tokens[start : start + size])
            before = f"The conversation before it was: {summary}\n\n" if summary else ""
            request = _REQUEST.format(words=length // 2, before=before, text=text)
            summary = self._write([Message("user", request)], length).strip() or summary
        return summary

    def _too_long(self, n: int) -> UsageProblem:
        ways = [f"--ctx {n + 256}"]
        if self._settings.overflow == "stop":
            ways.append("--overflow shift or summarize for a long conversation")
        return UsageProblem(
            f"the prompt is {n} tokens, the context holds {self._n_ctx}", ", ".join(ways)
        )
