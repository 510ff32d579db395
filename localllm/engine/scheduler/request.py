"""What is asked of the scheduler, and what comes back token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from localllm.engine.adapter import Attached
from localllm.engine.context import Context
from localllm.engine.vision.prompt import MediaPrompt
from localllm.errors import EngineError, LocalLLMError, UsageProblem
from localllm.generation import Accounting, Sampling

MAX_LOGPROBS = 100


@dataclass(frozen=True)
class Request:
    """One prompt and how to continue it.

    `n` samples share the prompt's computation; sample i draws with `sampling.seed` + i.
    `logprobs` k gives, for each token, its own log-probability and those of the k likeliest,
    by the model itself (before temperature, penalties and grammar); None gives none.
    `score_prompt` gives the prompt's own tokens theirs too, but for the first, before which nothing
    stands: all of it is computed then, whatever is in the prefix cache.
    `adapters` are LoRAs of this model, which must stay open until the request has ended; None
    takes those that the context has attached.
    `deadline_s` from submission on, waiting included. `cache_prompt` False neither uses nor
    leaves anything in the prefix cache. `ignore_eog` goes on past the end of generation, as
    benchmarks do. With `media` (Vision.read) the prompt must be its tokens, in which numbers below
    zero stand for images; its Vision must stay open until the request has ended.
    """

    prompt: Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    n: int = 1
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    adapters: tuple[Attached, ...] | None = None
    deadline_s: float | None = None
    cache_prompt: bool = True
    ignore_eog: bool = False
    media: MediaPrompt | None = None
    score_prompt: bool = False

    @property
    def n_cells(self) -> int:
        """What the prompt takes of the context, in tokens."""
        return len(self.prompt) if self.media is None else self.media.n_cells


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token's natural log-probability."""

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Of one token, and the likeliest at its place, best first."""

    chosen: Logprob
    top: tuple[Logprob, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """What one step brought one sample of a request.

    `text` is what may be shown now: whole characters, held back while a stop string might be
    beginning, so it may belong to earlier tokens and is often empty. `token` is None where a
    sample ended without sampling. The last event of a sample has `accounting`, or `error` and
    `accounting` both. `prompt` are further tokens of the prompt, told to sample 0 alone.
    """

    sample: int
    text: str
    token: int | None = None
    logprobs: TokenLogprobs | None = None
    accounting: Accounting | None = None
    error: LocalLLMError | None = None
    prompt: tuple[TokenLogprobs, ...] = ()

    @property
    def last(self) -> bool:
        return self.accounting is not None


def check_request(request: Request, context: Context, n_vocab: int) -> None:
    """Raise UsageProblem for what `context` cannot compute. Nothing is ever cut off."""
    limit, n_prompt = context.n_ctx_seq, len(request.prompt)
    if n_prompt == 0:
        raise UsageProblem("the prompt is empty")
    if request.media is not None:
        _check_media(request, request.media, context)
    elif n_prompt > limit:
        raise UsageProblem(
            f"the prompt is {n_prompt} tokens, the context holds {limit}",
            f"use a larger context: --ctx {n_prompt + 256}",
        )
    elif min(request.prompt) < 0:
        raise UsageProblem("the prompt holds numbers that are no tokens of this model")
    if max(request.prompt) >= n_vocab:
        raise UsageProblem("the prompt holds numbers that are no tokens of this model")
    if not 1 <= request.n <= context.n_seq_max:
        raise UsageProblem(
            f"{request.n} samples of one request; 1 to {context.n_seq_max} are computed at once"
        )
    if request.logprobs is not None and not 0 <= request.logprobs <= MAX_LOGPROBS:
        raise UsageProblem(f"logprobs is {request.logprobs}, not 0 to {MAX_LOGPROBS}")
    if request.score_prompt and (request.logprobs is None or request.media is not None):
        raise UsageProblem("a prompt's tokens are scored with logprobs, and without images")
    wrong = [token for token in request.logit_bias if not 0 <= token < n_vocab]
    if wrong:
        raise UsageProblem(f"logit_bias names {wrong[0]}, which is no token of this model")
    for one in request.adapters or ():
        if one.adapter.model is not context.model:
            raise UsageProblem(f"{one.adapter.path.name} was loaded for another model")


def _check_media(request: Request, media: MediaPrompt, context: Context) -> None:
    if media.vision.model is not context.model:
        raise UsageProblem("the images were read for another model")
    if list(request.prompt) != media.tokens:
        raise UsageProblem("the prompt is not that of its images")
    media.check(context)


class Busy(EngineError):
    """Too many requests wait already. Ask again after about `retry_after_s` seconds."""

    def __init__(self, n_waiting: int, retry_after_s: float) -> None:
        super().__init__(
            f"{n_waiting} requests are waiting already",
            f"ask again in about {max(1, round(retry_after_s))} s",
        )
        self.retry_after_s = retry_after_s


class DeadlinePassed(EngineError):
    """A request's own deadline came before its answer's end."""


class Stopped(EngineError):
    """The scheduler was closed, or died of an error that it could not go on from."""
