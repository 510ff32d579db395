"""From the chunks of an answer to its parts, with its account."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localllm.endpoints.accounting import EndpointAccounting
from localllm.endpoints.counting import Tally, counts_of, seconds_of
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
        self._usage: Any = None
        self._timings: Mapping[str, Any] = {}
        self._heard = False
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
        tallies = [sample.tally for sample in self._samples]
        counts = counts_of(self._usage, self._timings, self._endpoint, self._wanted, tallies)
        said = counts.said
        if self._wanted.n > 1:
            # The server counts all samples together: shared out by their pieces, sums kept.
            said = _share(said, [one.n_pieces for one in tallies], one.number)
        finish, truncated = self._finish(one, cancelled, said if counts.counted else None)
        prompt_s, decode_s = self._seconds(first_s, now)
        prompt = counts.prompt if self._heard else 0
        return EndpointAccounting(
            prompt_tokens=prompt,
            cached_tokens=counts.cached,
            completion_tokens=said,
            prompt_s=prompt_s,
            decode_s=decode_s,
            first_token_s=first_s,
            finish_reason=finish,
            seed=_seed(self._wanted, one.number),
            truncated=truncated,
            model=self.model,
            counted=counts.counted,
            finish=one.finish,
            cost=self._endpoint.cost(prompt if one.number == 0 else 0, said),
            doubt=counts.doubt,
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

    def _seconds(self, first_s: float, now: float) -> tuple[float, float]:
        prompt_s, decode_s = seconds_of(self._timings, now - self.began)
        own_s = self.last - (self.first or self.last)
        return (
            first_s if prompt_s is None else prompt_s,
            own_s if decode_s is None else decode_s,
        )

    # --- reading ----------------------------------------------------------------------------

    def _note(self, chunk: Mapping[str, Any]) -> None:
        model = chunk.get("model")
        if isinstance(model, str) and model and self.model is None:
            self.model = one_line(model)[:_LONGEST_NAME]
        self._heard = True
        if (usage := chunk.get("usage")) is not None:
            self._usage = usage
        if isinstance(timings := chunk.get("timings"), Mapping):
            self._timings = timings

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
        self.n_calls = 0
        self.tally = Tally()
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
                self.tally.add(text, thinking=True)
                found.append(Delta(self.number, TextPart(text, thinking=True)))
                break
        for text in (_text(delta.get("content")), delta.get("refusal"), choice.get("text")):
            if isinstance(text, str) and text:
                found += self._said(text)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            found += self._called(call, broken)
        self.tally.n_pieces += bool(found)
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
        self.tally.add(text)
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
            self.tally.add(arguments)
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
        self.tally.n_calls += 1
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


def _share(total: int, weights: Sequence[int], which: int) -> int:
    """The part of `total` that belongs to number `which`; all parts together are `total`."""
    whole = sum(weights) or len(weights)
    given = [w if sum(weights) else 1 for w in weights]
    ends = [total * sum(given[: i + 1]) // whole for i in range(len(given))]
    return ends[which] - (ends[which - 1] if which else 0)


def _seed(wanted: Wanted, sample: int) -> int:
    seed = wanted.sampling.seed
    return -1 if seed is None else seed + sample
