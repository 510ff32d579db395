"""The Generator protocol: messages in, a stream of pieces and their accounting out.

Whatever answers a conversation - a local model, an endpoint, a router, a person - is a
`Generator`. This module imports nothing of the project and nothing heavy, so every room
may depend on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "context", "cancelled"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation, in the field's usual roles."""

    role: Role
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict)  # tool_calls, name, tool_call_id


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen and when to stop. Names are llama.cpp's own.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1, `min_p` 0, `typical_p` 1, `top_n_sigma` 0,
    `repeat_penalty` 1, `dry_multiplier` 0, `xtc_probability` 0, `dynatemp_range` 0 and `mirostat`
    0 each switch their sampler off. `mirostat` 1 or 2 takes the place of the truncating ones, as
    in llama.cpp. `repeat_last_n` and `dry_penalty_last_n` -1 mean the whole context. `seed` None
    draws one (reported in `Accounting.seed`). `max_tokens` None runs until the model stops or the
    context is full. `special` lets control tokens come out as their text ("<|channel|>") in place
    of nothing: for who reads thinking or tool calls out of an answer. With `grammar_triggers` the
    grammar begins only after the first of these texts, and holds for what follows it.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    grammar: str | None = None  # GBNF
    top_n_sigma: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    special: bool = False
    grammar_triggers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Text as it arrives: whole characters only, stop strings never shown."""

    text: str
    token_count: int  # tokens of the model this text came from (0 or more)


@dataclass(frozen=True)
class Accounting:
    """What one answer took. Times in seconds on a monotonic clock.

    `prompt_s` is prompt processing of the tokens that were not in the cache;
    `first_token_s` runs from the call to the first piece; `decode_s` covers the tokens
    after the first.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    prompt_s: float
    decode_s: float
    first_token_s: float
    finish_reason: FinishReason
    seed: int
    truncated: bool = False

    @property
    def prompt_tps(self) -> float | None:
        """Prompt processing (pp) tokens per second, None when nothing was processed."""
        new = self.prompt_tokens - self.cached_tokens
        return new / self.prompt_s if new > 0 and self.prompt_s > 0 else None

    @property
    def decode_tps(self) -> float | None:
        """Token generation (tg) tokens per second over the tokens after the first."""
        n = self.completion_tokens - 1
        return n / self.decode_s if n > 0 and self.decode_s > 0 else None


class Stream(Protocol):
    """Pieces in order. `accounting` is set once iteration has ended, however it ended."""

    accounting: Accounting | None

    def __iter__(self) -> Iterator[Piece]: ...

    def cancel(self) -> None:
        """Stop within one token; iteration then ends with finish reason `cancelled`."""


class Generator(Protocol):
    """Anything that answers a conversation."""

    @property
    def name(self) -> str: ...

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> Stream: ...

    def close(self) -> None: ...
