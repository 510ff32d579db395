"""One answer: messages in, text out as it comes, with its account."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localllm.generation import Accounting, Generator, Message, Sampling, Stream


@dataclass(frozen=True)
class Answer:
    """What a model said. `truncated`: the context was full before it was done."""

    model: str
    text: str
    finish_reason: str
    truncated: bool
    seed: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    load_s: float | None
    first_token_s: float
    prompt_s: float
    decode_s: float
    prompt_tps: float | None
    decode_tps: float | None
    context_tokens: int  # used after the answer
    n_ctx: int


def answer(
    generator: Generator,
    messages: Sequence[Message],
    sampling: Sampling,
    show: Callable[[str], None],
    *,
    n_ctx: int,
    load_s: float | None = None,
) -> Answer:
    """Ask, and hand each piece of text to `show` as it arrives.

    Ctrl-C ends the answer, not the program: what was said until then is the answer, with
    finish reason `cancelled`. Raises what the generator raises.
    """
    stream = generator.generate(messages, sampling)
    text = collect(stream, show)
    account = stream.accounting
    assert account is not None  # iteration has ended
    return finished(generator.name, text, account, n_ctx, load_s)


def collect(stream: Stream, show: Callable[[str], None]) -> str:
    """The whole text of a stream, shown while it comes; Ctrl-C cancels the stream."""
    parts: list[str] = []
    pieces = iter(stream)
    while True:
        try:
            piece = next(pieces, None)
            if piece is None:
                return "".join(parts)
            parts.append(piece.text)
            show(piece.text)
        except KeyboardInterrupt:
            stream.cancel()


def finished(name: str, text: str, account: Accounting, n_ctx: int, load_s: float | None) -> Answer:
    """The answer with its account, in one flat value."""
    return Answer(
        model=name,
        text=text,
        finish_reason=account.finish_reason,
        truncated=account.truncated,
        seed=account.seed,
        prompt_tokens=account.prompt_tokens,
        cached_tokens=account.cached_tokens,
        completion_tokens=account.completion_tokens,
        load_s=load_s,
        first_token_s=account.first_token_s,
        prompt_s=account.prompt_s,
        decode_s=account.decode_s,
        prompt_tps=account.prompt_tps,
        decode_tps=account.decode_tps,
        context_tokens=account.prompt_tokens + account.completion_tokens,
        n_ctx=n_ctx,
    )
