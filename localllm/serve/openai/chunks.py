"""Pieces of OpenAI's answers that streams and whole answers share."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from localllm.engine.scheduler import Logprob, TokenLogprobs
from localllm.engine.tokenizer import Tokenizer
from localllm.generation import Accounting
from localllm.serve.answering.whole import totals
from localllm.serve.openai.schemas import Sampled
from localllm.serve.resident.desk import InUse


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(12)}"


def now_s() -> int:
    return int(time.time())


def usage_of(
    ended: Sequence[Accounting], thought: Sequence[int | None] = (None,)
) -> dict[str, Any]:
    """`thought` are the tokens of each sample's thinking; None says that nobody counted."""
    prompt, completion, cached = totals(list(ended))
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    known = [n for n in thought if n is not None]
    if known:
        usage["completion_tokens_details"] = {"reasoning_tokens": sum(known)}
    return usage


def finish_of(account: Accounting, called: bool) -> str:
    """A context that is full ends an answer as a limit does; a call that was cut off is none."""
    if account.finish_reason != "stop":
        return "length"
    return "tool_calls" if called else "stop"


def wants_usage(body: Sampled) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage is True


def fingerprint(use: object) -> str | None:
    """The same for the same weights, adapters and engine: with it, a seed means the same. None for
    those elsewhere."""
    if not isinstance(use, InUse):
        return None
    served = use.served
    adapters = [(path.name, scale) for path, scale in served.adapters]
    text = f"{served.key} {adapters} {_engine()}"
    return "fp_" + hashlib.sha256(text.encode()).hexdigest()[:10]


@cache
def _engine() -> str:
    return version("llama-cpp-python")


def chat_logprobs(tokenizer: Tokenizer, given: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
    """`logprobs.content`. The token that ended the answer is no part of it."""
    eog = tokenizer.eog_tokens
    return [
        {
            **_token(tokenizer, one.chosen),
            "top_logprobs": [_token(tokenizer, top) for top in one.top],
        }
        for one in given
        if one.chosen.token not in eog
    ]


def _token(tokenizer: Tokenizer, one: Logprob) -> dict[str, Any]:
    raw = tokenizer.piece(one.token) or tokenizer.text(one.token).encode()
    return {
        "token": raw.decode("utf-8", "replace"),
        "logprob": finite(one.logprob),
        "bytes": list(raw),
    }


def finite(logprob: float) -> float:
    """JSON has no infinity: what cannot be is very unlikely, as OpenAI writes it."""
    return max(logprob, -9999.0)


class TextLogprobs:
    """`logprobs` of a completion, whose offsets count on through a stream."""

    def __init__(self, tokenizer: Tokenizer, offset: int = 0) -> None:
        self._tokenizer = tokenizer
        self._offset = offset

    def of(self, given: Sequence[TokenLogprobs]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []
        }  # fmt: skip
        for one in given:
            if one.chosen.token in self._tokenizer.eog_tokens:
                continue
            text = self._text(one.chosen)
            found["tokens"].append(text)
            found["token_logprobs"].append(finite(one.chosen.logprob))
            top = {self._text(t): finite(t.logprob) for t in reversed(one.top)}
            found["top_logprobs"].append(dict(reversed(top.items())))
            found["text_offset"].append(self._offset)
            self._offset += len(text)
        return found

    def _text(self, one: Logprob) -> str:
        return self._tokenizer.decode([one.token]) or self._tokenizer.text(one.token)
