"""What a model thinks before an answer, as templates write it, leave it out or open it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from localllm.finetune.data.shapes.values import THINKING
from localllm.generation import Message
from localllm.thinking import ThinkingFormat


class Thoughts:
    """Of one template, by the marks it thinks between."""

    def __init__(self, marks: ThinkingFormat) -> None:
        self.marks = marks

    def apart(self, message: Message) -> tuple[Message, str]:
        """A message without what was thought, as `chat` keeps it, but where the template has a
        key to take it back by; and what was thought."""
        if message.role != "assistant":
            return message, ""
        thought = str(message.extra.get(THINKING, ""))
        if not thought and message.content.lstrip().startswith(self._openings):
            splitter = self.marks.splitter()
            parts = [*splitter.feed(message.content), *splitter.finish()]
            thought = "".join(text for kind, text in parts if kind == "thinking").strip()
            said = "".join(text for kind, text in parts if kind == "answer")
            message = replace(message, content=said) if thought else message
        if not thought:
            return message, ""
        extra = {k: v for k, v in message.extra.items() if k != THINKING}
        if self.marks.replay is not None:
            extra[self.marks.replay] = thought
        return replace(message, extra=extra), thought

    @cached_property
    def _openings(self) -> tuple[str, ...]:
        return tuple(opening for opening, _ in self.marks.pairs)

    def written(self, asked: str, thought: str) -> str:
        """Thinking as a model writes it, where the template leaves it out of what was said."""
        if self.marks.harmony:
            return f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant"
        opening, closing = self.marks.pairs[0]
        opened = asked.rstrip().endswith(opening)
        return ("" if opened else f"{opening}\n") + f"{thought.strip()}\n{closing}\n\n"

    def without(self, tail: str) -> str:
        """An answer without the empty block that some templates write in place of thinking."""
        for opening, closing in self.marks.pairs:
            block, mark, rest = tail.partition(closing)
            if mark and block.strip() == opening:
                return rest.lstrip("\n")
        return tail

    def after_opening(self, asked: str, whole: str, answer: str, thought: str) -> str:
        """Where the template opens an answer in another way than it writes it afterwards: it opens
        the thinking, which it leaves out of what was said before. Otherwise the answer is what
        a model would say: its own words."""
        tail = asked.rstrip()
        for opening, closing in self.marks.pairs:
            if not tail.endswith(opening):
                continue
            head = tail[: -len(opening)]
            thought = f"{thought.strip()}\n" if thought else ""
            rest = whole[len(head) :] if whole.startswith(head) else answer
            if rest.lstrip().startswith(opening):
                return rest.lstrip()[len(opening) :].lstrip("\n")
            return f"{thought}{closing}\n\n{rest.lstrip()}"
        return (self.written(asked, thought) if thought else "") + answer
