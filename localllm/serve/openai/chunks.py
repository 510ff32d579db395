"""Pieces of OpenAI's answers that streams and whole answers share."""

from __future__ import annotations

import codecs
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
    """`logprobs` of a completion, whose offsets count on through a stream. A token's offset is the
    number of characters that are complete before it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, given: Sequence[TokenLogprobs], *, with_end: bool = False) -> dict[str, Any]:
        """Of tokens that follow. The one that ended the answer is no part of its text, and left
        out unless `with_end`."""
        found = _empty()
        for one in given:
            if with_end or one.chosen.token not in self._tokenizer.eog_tokens:
                self._add(found, one.chosen.token, one)
        return found

    def echo(
        self, prompt: Sequence[int], given: Sequence[TokenLogprobs], *, hidden: int
    ) -> dict[str, Any]:
        """Of a whole prompt, without its first `hidden` tokens, which its client did not write.
        Nothing stands before the first, so that null is its value."""
        shown = prompt[hidden:]
        piece = self._tokenizer.piece
        # SentencePiece puts a space in front of a text, which is no part of it.
        added = sum(map(len, map(piece, shown))) - len(self._tokenizer.decode_bytes(shown))
        found = _empty()
        for i, token in enumerate(shown):
            known = given[hidden + i - 1] if i else None
            self._add(found, token, known, piece(token)[added:] if not i else None)
        return found

    def _add(
        self, found: dict[str, Any], token: int, one: TokenLogprobs | None, raw: bytes | None = None
    ) -> None:
        found["tokens"].append(self._text(token))
        found["token_logprobs"].append(None if one is None else finite(one.chosen.logprob))
        top = None
        if one is not None:
            likeliest = {self._text(t.token): finite(t.logprob) for t in reversed(one.top)}
            top = dict(reversed(likeliest.items()))
        found["top_logprobs"].append(top)
        found["text_offset"].append(self._offset)
        added = self._tokenizer.piece(token) if raw is None else raw
        self._offset += len(self._decoder.decode(added))

    def _text(self, token: int) -> str:
        raw = self._tokenizer.piece(token)
        return raw.decode("utf-8", "replace") if raw else self._tokenizer.text(token)


def _empty() -> dict[str, Any]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def chained(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Of a prompt and its answer, as one."""
    return {name: [*first[name], *second[name]] for name in first}
