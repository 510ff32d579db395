"""Answers as a whole, and several at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field

from localllm.engine.scheduler import TokenLogprobs
from localllm.generation import Accounting
from localllm.serve.answering.answer import Answers, Ended, Part, Said, Scored, Thinking
from localllm.toolcalls import CallArguments, CallStart, ToolCall


async def together(
    answers: Sequence[Answers],
) -> AsyncGenerator[tuple[int, list[Part]], None]:
    """The parts of several, each with the number of whose they are, as they come. Raises the
    first error of any."""
    if len(answers) == 1:  # without a task a step
        async for parts in answers[0].parts():
            yield 0, parts
        return
    sources = [one.parts() for one in answers]
    waiting = {asyncio.ensure_future(_next(one)): i for i, one in enumerate(sources)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                i = waiting.pop(task)
                if (found := task.result()) is not None:
                    waiting[asyncio.ensure_future(_next(sources[i]))] = i
                    yield i, found
    finally:
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting)


async def _next(source: AsyncIterator[list[Part]]) -> list[Part] | None:
    return await anext(source, None)


@dataclass
class Whole:
    """One sample's whole answer."""

    text: str = ""
    thought: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt: list[TokenLogprobs] = field(default_factory=list)  # from its second token on
    accounting: Accounting | None = None
    thought_tokens: int | None = None

    @property
    def account(self) -> Accounting:
        assert self.accounting is not None  # set by the last part
        return self.accounting


async def gathered(answering: Answers) -> tuple[Whole, ...]:
    """Every sample's answer, in order. Raises the request's error."""
    found = [Whole() for _ in range(answering.n)]
    calls: dict[tuple[int, int], tuple[CallStart, list[str]]] = {}
    texts: list[list[str]] = [[] for _ in found]
    async for parts in answering.parts():
        for part in parts:
            one = found[part.sample]
            if isinstance(part, Said):
                texts[part.sample].append(part.text)
                one.logprobs += part.logprobs
            elif isinstance(part, Scored):
                for each in found:  # they share it
                    each.prompt += part.logprobs
            elif isinstance(part, Thinking):
                one.thought += part.text
            elif isinstance(part, Ended):
                one.accounting, one.thought_tokens = part.accounting, part.thought_tokens
            elif isinstance(part.part, CallStart):
                calls[part.sample, part.index] = part.part, []
            elif isinstance(part.part, CallArguments):
                calls[part.sample, part.index][1].append(part.part.text)
    for (sample, _), (start, arguments) in calls.items():
        found[sample].calls.append(ToolCall(start.id, start.name, "".join(arguments)))
    for one, pieces in zip(found, texts, strict=True):
        one.text = "".join(pieces)
    return tuple(found)


def totals(ended: list[Accounting]) -> tuple[int, int, int]:
    """(prompt, completion, cached) tokens of one request: its samples share the prompt."""
    prompt = max((one.prompt_tokens for one in ended), default=0)
    cached = max((one.cached_tokens for one in ended), default=0)
    return prompt, sum(one.completion_tokens for one in ended), cached
