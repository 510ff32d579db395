"""/v1/completions"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm.engine.infill import CannotInfill
from localllm.engine.scheduler import TokenLogprobs
from localllm.errors import LocalLLMError
from localllm.generation import Accounting
from localllm.serve.answering.answer import Answering, Ended, Part, Said, Scored
from localllm.serve.answering.ask import Ask
from localllm.serve.answering.whole import Whole, together
from localllm.serve.openai import chunks
from localllm.serve.openai.chat import DONE
from localllm.serve.openai.schemas import CompletionBody
from localllm.serve.openai.words import biases, refuse_others, sampling_of
from localllm.serve.service import Begun, Service
from localllm.serve.web.problems import Failure, RequestProblem
from localllm.serve.web.streams import SSE, LineStream, compact, event

_MOST_PROMPTS = 128


class Completions:
    """The endpoint. Several prompts are answered at once, each a request of its own."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        body = await self._service.bodies.parse(request, CompletionBody)
        prompts = _prompts(body)
        _refuse(body, prompts)
        begun = await self._begun(request, body, prompts)
        if body.stream:
            return LineStream(_stream(begun, body, prompts), SSE, _closing(begun))
        choices: list[dict[str, Any]] = []
        ended: list[dict[str, Any]] = []
        try:
            for one, prompt in zip(begun, prompts, strict=True):
                found = await one.whole()
                best = _best(found, body)
                choices += _choices(one, best, prompt, body, first=len(choices))
                ended.append(chunks.usage_of([sample.account for sample in found]))
        finally:
            await _closing(begun)()
        _note_sum(begun[0], ended)
        return JSONResponse(
            {
                "id": chunks.new_id("cmpl"),
                "object": "text_completion",
                "created": chunks.now_s(),
                "model": body.model,
                "choices": choices,
                "usage": _summed(ended),
                "system_fingerprint": chunks.fingerprint(begun[0].use),
            }
        )

    async def _begun(
        self, request: Request, body: CompletionBody, prompts: Sequence[str | list[int]]
    ) -> list[Begun]:
        begun: list[Begun] = []
        try:
            for prompt in prompts:
                ask = self._ask(body, prompt)
                begun.append(
                    await self._service.begin(request, body.model, ask, whole=not body.stream)
                )
        except BaseException as error:
            await _closing(begun)()
            if isinstance(error, CannotInfill):
                raise RequestProblem(error.message, "suffix") from None
            raise

        def stop() -> None:
            for one in begun:
                one.answering.cancel()

        begun[0].exchange.stop = stop
        return begun

    def _ask(self, body: CompletionBody, prompt: str | list[int]) -> Ask:
        return Ask(
            text=prompt if isinstance(prompt, str) else "",
            tokens=() if isinstance(prompt, str) else tuple(prompt),
            sampling=sampling_of(body, body.max_tokens, None),
            n=body.n_samples,
            logit_bias=biases(body.logit_bias),
            logprobs=0 if body.logprobs is None and _chooses(body) else body.logprobs,
            ignore_eog=body.ignore_eos is True,
            cache_prompt=body.cache_prompt is not False,
            deadline_s=self._service.limits.answer_s,
            suffix=body.suffix or None,
            score_prompt=_scores(body),
        )


def _closing(begun: Sequence[Begun]) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        for one in begun:
            await one.close()

    return close


def _prompts(body: CompletionBody) -> list[str | list[int]]:
    given = body.prompt
    if isinstance(given, str):
        return [given]
    if not given:
        raise RequestProblem("prompt is empty", "prompt")
    if isinstance(given[0], int):
        return [[int(token) for token in given if isinstance(token, int)]]
    return [one for one in given if not isinstance(one, int)]


def _refuse(body: CompletionBody, prompts: Sequence[Any]) -> None:
    refuse_others(body)
    if body.best_of is not None and body.best_of < (body.n or 1):
        raise RequestProblem(f"best_of is {body.best_of}, fewer than n", "best_of")
    if body.stream and _chooses(body):
        raise RequestProblem("the best of several is not known while they stream", "best_of")
    if _scores(body) and body.suffix:
        raise RequestProblem("a gap that is filled has no echo with logprobs", "echo")
    if len(prompts) > _MOST_PROMPTS:
        raise RequestProblem(f"{len(prompts)} prompts; at most {_MOST_PROMPTS}", "prompt")


def _scores(body: CompletionBody) -> bool:
    """Whether the prompt's own tokens are to have their logprobs."""
    return bool(body.echo) and body.logprobs is not None


def _chooses(body: CompletionBody) -> bool:
    return body.n_samples > (body.n or 1)


def _best(found: Sequence[Whole], body: CompletionBody) -> Sequence[Whole]:
    """The `n` whose tokens are the likeliest, on average; the best first."""
    if not _chooses(body):
        return found

    def mean(one: Whole) -> float:
        values = [chunks.finite(token.chosen.logprob) for token in one.logprobs]
        return sum(values) / len(values) if values else -math.inf

    return sorted(found, key=mean, reverse=True)[: body.n or 1]


def _echo(begun: Begun, prompt: str | list[int], body: CompletionBody) -> str:
    if not body.echo:
        return ""
    return prompt if isinstance(prompt, str) else begun.tokenizer.decode(prompt)


def _echoed(
    counted: chunks.TextLogprobs,
    begun: Begun,
    prompt: str | list[int],
    given: Sequence[TokenLogprobs],
) -> dict[str, Any]:
    """The prompt's own logprobs. A BOS that the vocabulary put in front of a text is not shown,
    since it is no part of what was sent."""
    tokens = _tokens(begun)
    hidden = isinstance(prompt, str) and list(tokens[:1]) == [begun.tokenizer.bos]
    return counted.echo(tokens, given, hidden=int(hidden))


def _tokens(begun: Begun) -> Sequence[int]:
    assert isinstance(begun.answering, Answering)  # who is elsewhere gives no logprobs
    return begun.answering.prepared.request.prompt


def _choices(
    begun: Begun, found: Sequence[Whole], prompt: str | list[int], body: CompletionBody, first: int
) -> list[dict[str, Any]]:
    before = _echo(begun, prompt, body)
    made = []
    for i, one in enumerate(found):
        logprobs = None
        if body.logprobs is not None:
            counted = chunks.TextLogprobs(begun.tokenizer)
            if body.echo:
                told = _echoed(counted, begun, prompt, found[0].prompt)
                logprobs = chunks.chained(told, counted.of(one.logprobs, with_end=True))
            else:
                logprobs = counted.of(one.logprobs)
        made.append(
            {
                "index": first + i,
                "text": before + one.text,
                "logprobs": logprobs,
                "finish_reason": chunks.finish_of(one.account, called=False),
            }
        )
    return made


def _summed(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    cached = sum(one["prompt_tokens_details"]["cached_tokens"] for one in parts)
    return {name: sum(one[name] for one in parts) for name in names} | {
        "prompt_tokens_details": {"cached_tokens": cached}
    }


def _note_sum(begun: Begun, ended: Sequence[dict[str, Any]]) -> None:
    total, usage = _summed(ended), begun.exchange.usage
    usage.prompt_tokens = total["prompt_tokens"]
    usage.completion_tokens = total["completion_tokens"]


class _Writer:
    """Chunks of one stream; sample `i` of prompt `p` is choice p * n + i."""

    def __init__(
        self, begun: Sequence[Begun], body: CompletionBody, prompts: Sequence[str | list[int]]
    ) -> None:
        self._n = body.n or 1
        self._usage = chunks.wants_usage(body)
        self.head = {
            "id": chunks.new_id("cmpl"),
            "object": "text_completion",
            "created": chunks.now_s(),
            "model": body.model,
            "system_fingerprint": chunks.fingerprint(begun[0].use),
        }
        self._prefix = b"data: " + compact(self.head)[:-1] + b',"choices":['
        self._suffix = b"]" + (b',"usage":null' if self._usage else b"") + b"}\n\n"
        self._logprobs = [
            chunks.TextLogprobs(one.tokenizer) for one in begun for _ in range(self._n)
        ]
        self.ended: list[list[Accounting]] = [[] for _ in begun]
        self._begun, self._prompts, self._body = begun, prompts, body
        self._scored: list[list[TokenLogprobs]] = [[] for _ in begun]

    def echo(self, at: int) -> bytes:
        """The prompt; nothing where its logprobs are still to come."""
        one, prompt = self._begun[at], self._prompts[at]
        scores, known = _scores(self._body), self._scored[at]
        if scores and len(known) < len(_tokens(one)) - 1:
            return b""
        found = []
        for choice in range(at * self._n, (at + 1) * self._n):
            of = _echoed(self._logprobs[choice], one, prompt, known) if scores else None
            found.append(self._chunk(choice, _echo(one, prompt, self._body), None, of))
        return b"".join(found)

    def part(self, at: int, part: Part) -> bytes:
        choice = at * self._n + part.sample
        if isinstance(part, Scored):
            self._scored[at] += part.logprobs
            return self.echo(at)
        if isinstance(part, Said):
            of = None
            if part.logprobs:
                of = self._logprobs[choice].of(part.logprobs, with_end=_scores(self._body))
            return self._chunk(choice, part.text, None, of)
        assert isinstance(part, Ended)  # without a template there is nothing else
        self.ended[at].append(part.accounting)
        return self._chunk(choice, "", chunks.finish_of(part.accounting, called=False))

    def _chunk(self, choice: int, text: str, finish: str | None, of: Any = None) -> bytes:
        """As `event` writes it; what stays the same is written once for all."""
        rest = b"null" if of is None else compact(of)
        reason = b"null" if finish is None else compact(finish)
        one = b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}'
        return self._prefix + one % (choice, compact(text), rest, reason) + self._suffix

    @property
    def usages(self) -> list[dict[str, Any]]:
        return [chunks.usage_of(ended) for ended in self.ended]

    def last(self) -> bytes:
        if not self._usage:
            return DONE
        return event({**self.head, "choices": [], "usage": _summed(self.usages)}) + DONE


async def _stream(
    begun: Sequence[Begun], body: CompletionBody, prompts: Sequence[str | list[int]]
) -> AsyncGenerator[bytes, None]:
    writer = _Writer(begun, body, prompts)
    if body.echo:
        yield b"".join(writer.echo(i) for i in range(len(begun)))
    try:
        async with aclosing(together([one.answering for one in begun])) as steps:
            async for i, parts in steps:
                yield b"".join(writer.part(i, part) for part in parts)
    except LocalLLMError as error:
        yield event(Failure.of(error).openai())
        return
    finally:
        begun[0].account([one for ended in writer.ended for one in ended])
        _note_sum(begun[0], writer.usages)
    yield writer.last()
