"""What a server says that it counted, held against what was sent and what came.

Every tokenizer makes at least one token of a few words, and at most one of a byte. Counts that
break this by much cannot be: they are not believed, estimates take their place, and what was said
is kept. What lies between cannot be told from here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localllm.endpoints.endpoint import Endpoint
from localllm.endpoints.failures import one_line
from localllm.endpoints.wanted import Wanted

_WORD = re.compile(r"\S+")
_WORDS_A_TOKEN = 2  # no tokenizer in use joins more words than that, on the whole
_TOKENS_A_BYTE = 2  # at most one, and templates may say a thing again
_BYTES_A_TOKEN = 4  # of most languages, for an estimate
_AROUND = 64  # marks of the template around a message, a call, an answer
_UNSEEN = 4096  # what a server may put before a conversation: its own instructions
_AN_IMAGE = 50_000  # at most, of the dearest
_AN_IMAGE_ABOUT = 1000
_MOST_THOUGHT = 1 << 17  # tokens that a server may keep to itself, where there is no limit
_SLACK_S = 0.25


class Tally:
    """Text that comes in pieces: its bytes, and the words of what is no thinking, which some
    servers count apart."""

    def __init__(self) -> None:
        self.n_bytes = self.n_words = self.n_pieces = self.n_calls = 0
        self._within = False  # a word

    def add(self, text: str, *, thinking: bool = False) -> None:
        self.n_bytes += len(text.encode("utf-8", "replace"))
        if thinking or not text:
            return
        goes_on = self._within and not text[0].isspace()
        self.n_words += len(_WORD.findall(text)) - goes_on
        self._within = not text[-1].isspace()

    @property
    def least(self) -> int:
        return self.n_words // _WORDS_A_TOKEN

    @property
    def most(self) -> int:
        return _TOKENS_A_BYTE * self.n_bytes + _AROUND * (1 + self.n_calls)

    @property
    def about(self) -> int:
        """Servers send about a token a piece, unless they send all in one."""
        if 1 < self.n_pieces <= self.most and self.n_pieces >= self.least:
            return self.n_pieces
        return math.ceil(self.n_bytes / _BYTES_A_TOKEN)


@dataclass(frozen=True)
class Counts:
    """Tokens of one request, `said` of all its samples. `counted`: by the server; else estimates.
    `doubt` is what it counted that cannot be, None where there is no such."""

    prompt: int
    said: int
    cached: int
    counted: bool
    doubt: str | None


def counts_of(
    usage: Any, timings: Mapping[str, Any], endpoint: Endpoint, wanted: Wanted,
    tallies: Sequence[Tally],
) -> Counts:  # fmt: skip
    given = usage if isinstance(usage, Mapping) else {}
    doubts = [] if isinstance(usage, Mapping) or usage is None else [f"usage {_shown(usage)}"]
    sent = _Sent.of(wanted)
    least = 0 if endpoint.kind == "ollama" else sent.least  # which cuts what is too long for it
    prompt, doubt = _believed(given, "prompt_tokens", least, sent.most)
    doubts += doubt
    hidden = _hidden(given, wanted)
    least, most = sum(one.least for one in tallies), sum(one.most for one in tallies)
    said, doubt = _believed(given, "completion_tokens", least, most + hidden)
    doubts += doubt
    counted = prompt is not None and said is not None
    prompt = sent.about if prompt is None else prompt
    said = sum(one.about for one in tallies) if said is None else said
    cached = min(_cached(given, timings), prompt) if counted else 0
    return Counts(prompt, said, cached, counted, ", ".join(doubts) or None)


def tokens_of(usage: Any, texts: Sequence[str | Sequence[int]]) -> int | None:
    """Of texts that became vectors: the server's count, None where there is none to believe."""
    most = 0
    for text in texts:
        tally = Tally()
        tally.add(text if isinstance(text, str) else "")
        most += tally.most + (0 if isinstance(text, str) else len(text))
    given = usage if isinstance(usage, Mapping) else {}
    return _believed(given, "prompt_tokens", 0, most)[0]


def seconds_of(timings: Mapping[str, Any], took_s: float) -> tuple[float | None, float | None]:
    """The server's own times for the prompt and the answer, None for those that it does not give,
    or that are longer than the request took."""
    found = [_milliseconds(timings, f"{name}_ms") for name in ("prompt", "predicted")]
    if sum(one or 0.0 for one in found) > took_s + _SLACK_S:
        return None, None
    return found[0], found[1]


@dataclass(frozen=True)
class _Sent:
    """What a request's prompt can be counted as."""

    least: int
    most: int
    about: int

    @classmethod
    def of(cls, wanted: Wanted) -> _Sent:
        if wanted.messages is None and not isinstance(wanted.text, str):
            n = len(wanted.text)
            return cls(n, n + _AROUND, n)
        spoken, beside = Tally(), Tally()
        messages = wanted.messages or ()
        n_images = 0
        for text in [m.content for m in messages] if messages else [str(wanted.text)]:
            spoken.add(f"{text}\n")
        for message in messages:
            n_images += len(message.extra.get("images") or ())
            beside.add(_plain({k: v for k, v in message.extra.items() if k != "images"}))
        for text in _around(wanted):
            beside.add(text)
        n_bytes = spoken.n_bytes + beside.n_bytes
        fixed = _UNSEEN + _AROUND * len(messages) + _AN_IMAGE * n_images
        about = math.ceil(n_bytes / _BYTES_A_TOKEN) + 4 * len(messages)
        most = _TOKENS_A_BYTE * n_bytes + fixed
        return cls(spoken.least, most, about + _AN_IMAGE_ABOUT * n_images)


def _around(wanted: Wanted) -> Iterator[str]:
    for tool in wanted.tools:
        yield f"{tool}"
    for value in (wanted.schema, wanted.variables):
        if value:
            yield _plain(value)


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str) if value else ""


def _believed(
    usage: Mapping[str, Any], name: str, least: int, most: int
) -> tuple[int | None, list[str]]:
    """The count, None where there is none to believe; and what is wrong with it."""
    value = usage.get(name)
    if value is None:
        return None, []
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return None, [f"{name} {_shown(value)}"]
    if value < least:
        return None, [f"{name} {_shown(value)} for no less than {least}"]
    if value > most:
        return None, [f"{name} {_shown(value)} for no more than {most}"]
    return value, []


def _hidden(usage: Mapping[str, Any], wanted: Wanted) -> int:
    """Tokens of thinking that the server does not send, as it says."""
    details = usage.get("completion_tokens_details")
    value = details.get("reasoning_tokens") if isinstance(details, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return 0
    limit = wanted.sampling.max_tokens
    return min(value, wanted.n * (_MOST_THOUGHT if limit is None else limit))


def _cached(usage: Mapping[str, Any], timings: Mapping[str, Any]) -> int:
    details = usage.get("prompt_tokens_details")
    known = isinstance(details, Mapping)
    value = details.get("cached_tokens") if known else timings.get("cache_n")  # type: ignore[union-attr]
    return value if type(value) is int and value > 0 else 0


def _milliseconds(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        return None
    return float(value) / 1e3


def _shown(value: Any) -> str:
    text = one_line(json.dumps(value, default=str))
    return text if len(text) <= 24 else f"{text[:20]}..."
