"""From the chunks of an answer to its parts, with its account."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localllm.endpoints.accounting import EndpointAccounting
from localllm.endpoints.endpoint import Endpoint
from localllm.endpoints.failures import EndpointBroken, one_line
from localllm.endpoints.wanted import Wanted
from localllm.generation import FinishReason
from localllm.thinking import ThinkingFormat
from localllm.toolcalls import CallArguments, CallEnd, CallStart, Part, TextPart

_LONGEST_NAME = 256
_MOST_CALLS = 256
_REASONING = ("reasoning_content", "reasoning")


@dataclass(frozen=True, slots=True)
class Delta:
    """A part of sample `sample`; of its call number `call`, where it is one."""

    sample: int
    part: Part
    call: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """A sample's end. `called`: it holds calls."""

    sample: int
    accounting: EndpointAccounting
    called: bool


class Reading:
    """One answer of `wanted.n` samples, fed with the server's chunks."""

    def __init__(self, endpoint: Endpoint, wanted: Wanted) -> None:
        self._endpoint, self._wanted = endpoint, wanted
        self._samples = [_Sample(i, wanted) for i in range(wanted.n)]
        self._usage: Mapping[str, Any] = {}
        self._timings: Mapping[str, Any] = {}
        self.model: str | None = None
        self.began = time.perf_counter()
        self.first: float | None = None
        self.last = self.began

    @property
    def complete(self) -> bool:
        """Whether every sample was said to have ended; token counts may still come."""
        return all(one.finish is not None for one in self._samples)

    def feed(self, chunk: Mapping[str, Any]) -> list[Delta]:
        """The parts in one chunk. Raises EndpointBroken for what no chunk is."""
        self._note(chunk)
        choices = chunk.get("choices")
        if choices is None:
            choices = []
        if not isinstance(choices, list):
            raise self._broken("its choices are no list")
        found: list[Delta] = []
        for choice in choices:
            if not isinstance(choice, Mapping):
                raise self._broken("a choice is no object")
            sample = self._sample(choice)
            found += sample.take(choice, self._broken)
        if found:
            self.last = time.perf_counter()
            self.first = self.first or self.last
        return found

    def finish(self) -> list[Delta]:
        """What was held back, when nothing more comes."""
        return [delta for one in self._samples for delta in one.close()]

    def ended(self, *, cancelled: bool = False) -> list[Ended]:
        """Each sample's account, of as much as has come."""
        return [
            Ended(one.number, self._account(one, cancelled), one.n_calls > 0)
            for one in self._samples
        ]

    # --- counting ---------------------------------------------------------------------------

    def _account(self, one: _Sample, cancelled: bool) -> EndpointAccounting:
        now = time.perf_counter()
        first_s = (self.first or now) - self.began
        prompt, cached = _count(self._usage, "prompt_tokens"), self._cached()
        said = _count(self._usage, "completion_tokens")
        counted = prompt is not None and said is not None
        if counted and self._wanted.n > 1:
            # The server counts all samples together: shared out by their pieces, sums kept.
            said = _share(said or 0, [s.n_pieces for s in self._samples], one.number)
        finish, truncated = self._finish(one, cancelled, said)
        prompt_s, decode_s = self._seconds(first_s)
        n_said = said if said is not None else one.n_pieces
        return EndpointAccounting(
            prompt_tokens=prompt or 0,
            cached_tokens=min(cached, prompt or 0),
            completion_tokens=n_said,
            prompt_s=prompt_s,
            decode_s=decode_s,
            first_token_s=first_s,
            finish_reason=finish,
            seed=_seed(self._wanted, one.number),
            truncated=truncated,
            model=self.model,
            counted=counted,
            finish=one.finish,
            cost=self._endpoint.cost(prompt or 0 if one.number == 0 else 0, n_said)
            if counted
            else None,
        )

    def _finish(self, one: _Sample, cancelled: bool, said: int | None) -> tuple[FinishReason, bool]:
        if cancelled:
            return "cancelled", False
        if one.finish not in ("length", "max_tokens"):
            return "stop", False
        limit = self._wanted.sampling.max_tokens
        by_us = limit is not None and (said is None or said >= limit)
        # Ended before what was asked for: the context there is full, or the server has a limit
        return "length", not by_us

    def _seconds(self, first_s: float) -> tuple[float, float]:
        prompt_ms, decode_ms = (_number(self._timings, f"{n}_ms") for n in ("prompt", "predicted"))
        prompt_s = first_s if prompt_ms is None else prompt_ms / 1e3
        decode_s = self.last - (self.first or self.last) if decode_ms is None else decode_ms / 1e3
        return prompt_s, decode_s

    def _cached(self) -> int:
        details = self._usage.get("prompt_tokens_details")
        if isinstance(details, Mapping):
            return _count(details, "cached_tokens") or 0
        return _count(self._timings, "cache_n") or 0

    # --- reading ----------------------------------------------------------------------------

    def _note(self, chunk: Mapping[str, Any]) -> None:
        model = chunk.get("model")
        if isinstance(model, str) and model and self.model is None:
            self.model = one_line(model)[:_LONGEST_NAME]
        for name in ("usage", "timings"):
            value = chunk.get(name)
            if isinstance(value, Mapping):
                setattr(self, f"_{name}", value)

    def _sample(self, choice: Mapping[str, Any]) -> _Sample:
        index = choice.get("index", 0)
        if isinstance(index, bool) or not isinstance(index, int):
            raise self._broken("a choice has no number")
        if not 0 <= index < len(self._samples):
            raise self._broken(f"it sends sample {index} of {len(self._samples)}")
        return self._samples[index]

    def _broken(self, why: str) -> EndpointBroken:
        return EndpointBroken(f"{self._endpoint.name} sends what is no answer: {why}")


class _Sample:
    """One choice: its text, its thinking, its calls one after the other."""

    def __init__(self, number: int, wanted: Wanted) -> None:
        self.number = number
        self.finish: str | None = None
        self.n_pieces = 0
        self.n_calls = 0
        self._call_number: Any = None  # as the server numbers them
        # Servers that know nothing of thinking send its marks in the text.
        plain = wanted.messages is not None and wanted.schema is None
        self._splitter = ThinkingFormat().splitter() if plain else None

    def take(self, choice: Mapping[str, Any], broken: Any) -> list[Delta]:
        found: list[Delta] = []
        delta = choice.get("delta") or choice.get("message") or {}
        if not isinstance(delta, Mapping):
            raise broken("a choice has no delta")
        for key in _REASONING:
            if isinstance(text := delta.get(key), str) and text:
                found.append(Delta(self.number, TextPart(text, thinking=True)))
                break
        for text in (_text(delta.get("content")), delta.get("refusal"), choice.get("text")):
            if isinstance(text, str) and text:
                found += self._said(text)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            found += self._called(call, broken)
        self.n_pieces += bool(found)
        if (finish := choice.get("finish_reason")) is not None:
            self.finish = one_line(str(finish))[:_LONGEST_NAME] or "stop"
        return found

    def close(self) -> list[Delta]:
        """What was held back, and the end of a call."""
        found: list[Delta] = []
        if self._splitter is not None:
            found += self._split(self._splitter.finish())
        if self._call_number is not None:
            found.append(self._part(CallEnd()))
            self._call_number = None
        return found

    def _said(self, text: str) -> list[Delta]:
        if self._splitter is None:
            return [Delta(self.number, TextPart(text))]
        return self._split(self._splitter.feed(text))

    def _split(self, parts: Sequence[tuple[str, str]]) -> list[Delta]:
        return [Delta(self.number, TextPart(text, kind == "thinking")) for kind, text in parts]

    def _called(self, call: Any, broken: Any) -> list[Delta]:
        """OpenAI's numbered pieces, or whole calls without a number (Gemini, Ollama)."""
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise broken("a tool call has no function")
        found: list[Delta] = []
        number, name, call_id = call.get("index"), function.get("name"), call.get("id")
        begins = self._call_number is None or (number is not None and number != self._call_number)
        if number is None:
            begins = begins or bool(name)
        if begins:
            found += self._begin(number, name, call_id, broken)
        arguments = function.get("arguments")
        if isinstance(arguments, Mapping):
            arguments = json.dumps(arguments, ensure_ascii=False)
        if isinstance(arguments, str) and arguments:
            found.append(self._part(CallArguments(arguments)))
        elif arguments not in (None, ""):
            raise broken("the arguments of a tool call are no text")
        return found

    def _begin(self, number: Any, name: Any, call_id: Any, broken: Any) -> list[Delta]:
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
            raise broken("a tool call has no name, or comes in pieces that are mixed")
        if self.n_calls >= _MOST_CALLS:
            raise broken(f"more than {_MOST_CALLS} tool calls")
        found = [self._part(CallEnd())] if self._call_number is not None else []
        self.n_calls += 1
        self._call_number = number if number is not None else f"own {self.n_calls}"
        given = isinstance(call_id, str) and 0 < len(call_id) <= _LONGEST_NAME
        own = call_id if given else f"call_{self.number}_{self.n_calls - 1}"
        return [*found, self._part(CallStart(own, name))]

    def _part(self, part: Part) -> Delta:
        return Delta(self.number, part, self.n_calls - 1)


def _text(content: Any) -> str | None:
    """Some servers send the parts of a content in place of its text."""
    if isinstance(content, list):
        texts = [one.get("text") for one in content if isinstance(one, Mapping)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else None


def _count(values: Mapping[str, Any], name: str) -> int | None:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 40:
        return None
    return value


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        return None
    return float(value)


def _share(total: int, weights: Sequence[int], which: int) -> int:
    """The part of `total` that belongs to number `which`; all parts together are `total`."""
    whole = sum(weights) or len(weights)
    given = [w if sum(weights) else 1 for w in weights]
    ends = [total * sum(given[: i + 1]) // whole for i in range(len(given))]
    return ends[which] - (ends[which - 1] if which else 0)


def _seed(wanted: Wanted, sample: int) -> int:
    seed = wanted.sampling.seed
    return -1 if seed is None else seed + sample
