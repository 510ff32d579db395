"""Members that run in this process: conversations in, parts of answers out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from localllm.engine.scheduler import Event, Request, TokenLogprobs
from localllm.engine.template import encode_prompt
from localllm.errors import UsageProblem
from localllm.generation import Accounting, Message, Sampling
from localllm.library.answering import CannotDo, OutOfContext
from localllm.library.lending import Lent
from localllm.library.sampling import model_sampling
from localllm.route.answering.stream import PartIterator
from localllm.route.answering.voice import Voice
from localllm.thinking import Splitter, ThinkingFormat
from localllm.toolcalls import Part, ToolFormat, ToolParser

if TYPE_CHECKING:
    from localllm.endpoints import Wanted
    from localllm.engine.scheduler import Answer
    from localllm.engine.vision.prompt import MediaPrompt
    from localllm.engine.vision.vision import Pictures


@dataclass(frozen=True)
class PreparedRequest:
    """A request, and how its answer is read."""

    request: Request
    splitter: Splitter | None
    parser: ToolParser | None


class LocalMember:
    """A model that was lent, and answers conversations."""

    def __init__(self, lent: Lent) -> None:
        self.lent = lent

    @property
    def name(self) -> str:
        return self.lent.model.name

    def ask(self, wanted: Wanted) -> LocalStream:
        """Raises OutOfContext, CannotDo, UsageProblem for what the model's template cannot say."""
        prepared = self.prepare(wanted)
        return LocalStream(self.lent.generator.submit(prepared.request), prepared, self.name)

    def prepare(self, wanted: Wanted) -> PreparedRequest:
        """The request that `wanted` becomes. Nothing is computed yet."""
        if wanted.messages is None:
            raise UsageProblem("a router answers conversations, it continues no texts")
        template, model = self.lent.template, self.lent.model
        messages: Sequence[Message] = self.lent.preset.messages_before(wanted.messages)
        messages, pictures = self._seen(messages)
        offered = wanted.tools if wanted.tool_choice != "none" else ()
        if offered and "tools" not in f"{template.source}{template.named.keys()}":
            raise CannotDo(f"{self.name} knows no tools: its chat template has none")
        rendered = template.render(
            messages, tools=[tool.as_openai() for tool in offered], variables=wanted.variables
        )
        thinking = ThinkingFormat.of(template.source)
        sampling = self._sampling(wanted)
        sampling = replace(
            sampling,
            stop=(*sampling.stop, *rendered.stop),
            special=sampling.special or thinking.special,
        )
        parser: ToolParser | None = None
        if offered:
            form = ToolFormat.of(template.source or "", model.architecture)
            sampling = form.sampling(sampling, offered, wanted.tool_choice, wanted.parallel_calls)
            parser = form.parser(offered)
        harmony_calls = parser is not None and thinking.harmony  # that parser tells both apart
        splitter = None if harmony_calls else thinking.splitter(rendered.text)
        return PreparedRequest(self._request(wanted, rendered.text, sampling, pictures), splitter,
                               parser)  # fmt: skip

    def _seen(self, messages: Sequence[Message]) -> tuple[Sequence[Message], Pictures | None]:
        if not any(message.extra.get("images") for message in messages):
            return messages, None
        if self.lent.vision is None:
            raise CannotDo(f"{self.name} sees no images")
        return self.lent.vision().marked(messages)

    def _request(
        self, wanted: Wanted, text: str, sampling: Sampling, pictures: Pictures | None
    ) -> Request:
        media: MediaPrompt | None = None
        if pictures is not None and self.lent.vision is not None:
            media = self.lent.vision().read(text, pictures)
            tokens: Sequence[int] = media.tokens
        else:
            tokens = encode_prompt(self.lent.generator.scheduler.tokenizer, text)
        n_cells = len(tokens) if media is None else media.n_cells
        return Request(
            tokens, self._within(sampling, n_cells), adapters=self.lent.adapters,
            deadline_s=wanted.deadline_s, logit_bias=wanted.logit_bias,
            ignore_eog=wanted.ignore_eog, media=media,
        )  # fmt: skip

    def _sampling(self, wanted: Wanted) -> Sampling:
        """The model's own defaults, with what somebody decided."""
        usual, asked = Sampling(), wanted.sampling
        names = [
            name for name in usual.__dataclass_fields__
            if (getattr(asked, name) != getattr(usual, name) if wanted.given is None
                else name in wanted.given)
        ]  # fmt: skip
        values: dict[str, Any] = {name: getattr(asked, name) for name in names}
        if wanted.schema is not None:
            from localllm.grammars import json_schema_grammar

            schema = wanted.schema
            values["grammar"] = json_schema_grammar(
                dict(schema) if isinstance(schema, Mapping) else schema
            )
        elif asked.grammar is not None:
            values["grammar"] = asked.grammar
        return replace(model_sampling(self.lent.model, self.lent.metadata), **values)

    def _within(self, sampling: Sampling, n_prompt: int) -> Sampling:
        room = self.lent.n_ctx - n_prompt
        if room < 1:
            raise OutOfContext(
                f"the conversation is {n_prompt} tokens, {self.name} has a context of "
                f"{self.lent.n_ctx} here",
                "give it a longer one (--ctx), or add a member that has",
            )
        if sampling.max_tokens is None or sampling.max_tokens > room:
            return replace(sampling, max_tokens=room)
        return sampling


class LocalStream:
    """A MemberStream over the scheduler."""

    def __init__(self, answer: Answer, prepared: PreparedRequest, name: str) -> None:
        self.accounting: Accounting | None = None
        self.model: str | None = name
        self.logprobs: list[TokenLogprobs] = []
        self._answer = answer
        self._events: Iterator[Event] = answer.events()
        self._voice = Voice(prepared.splitter, prepared.parser)
        self._waiting: list[Part] = []
        self._ended = False

    def next_part(self) -> Part | None:
        while not self._waiting and not self._ended:
            event = next(self._events, None)
            if event is None:
                self._end()
            else:
                self._take(event)
        return self._waiting.pop(0) if self._waiting else None

    def parts(self) -> PartIterator:
        return PartIterator(self)

    def cancel(self) -> None:
        self._answer.cancel()

    def _take(self, event: Event) -> None:
        if event.logprobs is not None:
            self.logprobs.append(event.logprobs)
        if event.text:
            self._waiting += self._voice.feed(event.text)

    def _end(self) -> None:
        self._ended = True
        self._waiting += self._voice.finish()
        self.accounting = self._answer.accounting
