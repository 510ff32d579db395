"""From a conversation to the tokens that a model continues."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from localllm.chat.conversation import Conversation
from localllm.chat.settings import Thinking
from localllm.generation import Message
from localllm.thinking import ThinkingFormat

if TYPE_CHECKING:
    from localllm.chat.session import Session
    from localllm.engine.template import Rendered
    from localllm.engine.vision.prompt import MediaPrompt
    from localllm.toolcalls import ToolFormat


@dataclass(frozen=True)
class Asked:
    """A prompt as the model gets it. `began` is when its making began (time.perf_counter)."""

    tokens: tuple[int, ...]
    text: str
    stop: tuple[str, ...]
    began: float
    media: MediaPrompt | None = None  # with images in it


class Prompting:
    """One model's way of being asked: its template, and how it thinks."""

    def __init__(self, session: Session) -> None:
        self._generator = session.generator
        self._template = session.generator.template
        self._tokenizer = session.generator.session.tokenizer
        self.format = ThinkingFormat.of(self._template.source)
        self.thinking: Thinking = "auto"
        self.tools: tuple[Mapping[str, Any], ...] = ()

    def ask(self, conversation: Conversation) -> Asked:
        """The prompt for its next answer. Raises UsageProblem, EngineError: see ChatTemplate."""
        return self.render(conversation.messages(self.format.replay))

    def render(
        self,
        messages: Sequence[Message],
        *,
        thinking: Thinking | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Asked:
        """The prompt for `messages`; `thinking` and `tools` None are those of the conversation."""
        from localllm.engine.template import encode_prompt
        from localllm.engine.vision.vision import has_images, seeing

        began = time.perf_counter()
        vision = self._generator.vision
        if not has_images(messages):
            rendered = self._rendered(messages, thinking, tools)
            tokens = encode_prompt(self._tokenizer, rendered.text)
            return Asked(tuple(tokens), rendered.text, rendered.stop, began)
        marked, pictures = seeing(vision, self._generator.name).marked(messages)
        rendered = self._rendered(marked, thinking, tools)
        media = seeing(vision, self._generator.name).read(rendered.text, pictures)
        return Asked(tuple(media.tokens), rendered.text, rendered.stop, began, media)

    def _rendered(
        self,
        messages: Sequence[Message],
        thinking: Thinking | None,
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> Rendered:
        return self._template.render(
            messages,
            tools=self.tools if tools is None else tools,
            variables=_variables(thinking or self.thinking),
        )

    @property
    def is_plain(self) -> bool:
        """Whether the model brings no template, so that it is asked as a plain dialogue."""
        return self._template.is_plain

    @cached_property
    def tool_format(self) -> ToolFormat:
        """How this model calls tools."""
        from localllm.toolcalls import ToolFormat

        source = self._template.named.get("tool_use", self._template.source)
        return ToolFormat.of(source or "", self._generator.context.model.info.architecture)

    def count(self, conversation: Conversation) -> int:
        """Tokens of the prompt for the next answer; 0 for an empty conversation."""
        messages = conversation.messages(self.format.replay)
        return len(self.render(messages).tokens) if messages else 0

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False)

    def decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(tokens)

    def raw(self, text: str) -> Asked:
        """A text to be continued as it stands."""
        from localllm.engine.template import encode_prompt

        began = time.perf_counter()
        return Asked(tuple(encode_prompt(self._tokenizer, text)), text, (), began)

    def whole(self, tokens: Sequence[int]) -> list[int]:
        """`tokens` without those at the end that are a part of a character only."""
        import codecs

        found = list(tokens)
        for _ in range(4):
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            decoder.decode(b"".join(map(self._tokenizer.piece, found[-8:])))
            if not decoder.getstate()[0]:
                break
            found.pop()
        return found

    @cached_property
    def can_switch_thinking(self) -> bool:
        """Whether the template writes another prompt where thinking is switched off."""
        probe = [Message("user", "x")]
        off, on = self.render(probe, thinking="off"), self.render(probe, thinking="show")
        return off.text != on.text


def _variables(thinking: Thinking) -> Mapping[str, Any]:
    """What templates ask for: nothing where the user said nothing, so that their default holds."""
    if thinking == "auto":
        return {}
    return {"enable_thinking": thinking != "off", "thinking": thinking != "off"}
