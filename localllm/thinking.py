"""What a model thinks aloud before it answers, told apart from the answer while it streams.

    format = ThinkingFormat.of(template)
    splitter = format.splitter(prompt)
    for kind, text in splitter.feed("<think>Hm.</think>Yes"): ...   # "thinking", then "answer"

The marks are those of the chat templates that models ship with. `<think>` at the very beginning
of an answer is always one: many tuned models think without saying so in their template.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["thinking", "answer"]
Part = tuple[Kind, str]

_THINK = ("<think>", "</think>")
# Opening and closing mark, where the template has the first of them.
_PAIRS = (
    _THINK,  # Qwen, DeepSeek, GLM, SmolLM3, MiniMax, Nemotron, Kimi, LFM2.5, Granite 3.3, Phi-4
    ("[THINK]", "[/THINK]"),  # Magistral, Ministral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<mm:think>", "</mm:think>"),  # MiniMax M3
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<thought>", "</thought>"),  # EXAONE Deep
    ("Here is my thought process:", "Here is my response:"),  # Granite 3.2
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),  # Apriel
)
# What some put around the answer after it.
_WRAPPERS = (
    ("<response>", "</response>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<|START_TEXT|>", "<|END_TEXT|>"),
)
_CHANNEL, _MESSAGE, _START = "<|channel|>", "<|message|>", "<|start|>"
_HARMONY_ENDS = ("<|end|>", "<|return|>", "<|call|>", _START, _CHANNEL)


class Splitter(Protocol):
    """Tells thinking from answer. Nothing is lost but marks and the blank lines around them."""

    def feed(self, text: str) -> list[Part]: ...

    def finish(self) -> list[Part]:
        """What was held back for a mark that did not come."""


@dataclass(frozen=True)
class ThinkingFormat:
    """How one model marks what it thinks.

    `special`: the marks are control tokens, which come out only with `Sampling.special`.
    `replay` is the message key under which the template takes thinking back, None where it takes
    none; what it does with it (most drop it after the next question) is the template's business.
    """

    pairs: tuple[tuple[str, str], ...] = (_THINK,)
    harmony: bool = False
    special: bool = False
    replay: str | None = None

    @classmethod
    def of(cls, template: str | None) -> ThinkingFormat:
        """By what the chat template contains; None is a model without one."""
        text = template or ""
        if _CHANNEL in text and _MESSAGE in text:
            return cls((), harmony=True, special=True, replay="thinking")
        found = tuple(pair for pair in _PAIRS if pair[0] in text)
        replay = next(
            (key for key in ("reasoning_content", "reasoning", "thinking")
             if re.search(rf"\bmessage\.{key}\b|['\"]{key}['\"]", text)),
            None,
        )  # fmt: skip
        pairs = found if _THINK in found else (*found, _THINK)
        return cls(pairs, special=bool(found), replay=replay)

    def splitter(self, prompt: str = "") -> Splitter:
        """For the answer to `prompt`, the rendered text: some templates open the thinking there."""
        if self.harmony:
            return _Harmony(prompt)
        tail = prompt[-200:].rstrip()
        inside = next((pair for pair in self.pairs if tail.endswith(pair[0])), None)
        return _Tags(self.pairs, inside)


class _Tags:
    """Thinking between two marks at the beginning of an answer."""

    def __init__(self, pairs: Sequence[tuple[str, str]], inside: tuple[str, str] | None) -> None:
        self._pairs, self._held = pairs, ""
        self._close = inside[1] if inside else ""
        self._state: Literal["start", "thinking", "after", "answer"] = (
            "thinking" if inside else "start"
        )
        self._drop = ""  # the closing mark of a wrapper around the answer
        self._blank = True  # nothing but blank space was told of this part yet

    def feed(self, text: str) -> list[Part]:
        self._held += text
        parts: list[Part] = []
        while self._step(parts):
            pass
        return parts

    def finish(self) -> list[Part]:
        held, self._held = self._held, ""
        kind: Kind = "thinking" if self._state == "thinking" else "answer"
        if self._state == "after" or (kind == "thinking" and self._blank):
            held = held.lstrip()
        return [(kind, held)] if held else []

    def _step(self, parts: list[Part]) -> bool:
        """Take what is certain from the held text; True if a new state has to look at the rest."""
        if self._state == "thinking":
            return self._think(parts)
        if self._state == "answer":
            return self._answer(parts)
        text = self._held.lstrip()
        openers = self._pairs if self._state == "start" else ()
        for opener, close in openers:
            if text.startswith(opener):
                self._enter("thinking", text[len(opener) :])
                self._close = close
                return True
        for opener, close in _WRAPPERS:
            if text.startswith(opener):
                self._enter("answer", text[len(opener) :])
                self._drop = close
                return True
        marks = [mark for mark, _ in (*openers, *_WRAPPERS)]
        if not text or any(mark.startswith(text) for mark in marks):
            return False
        self._enter("answer", text if self._state == "after" else self._held)
        return True

    def _enter(self, state: Literal["thinking", "after", "answer"], rest: str) -> None:
        self._state, self._held, self._blank = state, rest, True

    def _think(self, parts: list[Part]) -> bool:
        before, mark, rest = self._held.partition(self._close)
        if mark:
            self._tell(parts, "thinking", before.rstrip())
            self._enter("after", rest)
            return True
        keep = max(_overlap(self._held, self._close), len(self._held) - len(self._held.rstrip()))
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        self._tell(parts, "thinking", shown)
        return False

    def _answer(self, parts: list[Part]) -> bool:
        if not self._drop:
            shown, self._held = self._held, ""
        else:
            before, mark, rest = self._held.partition(self._drop)
            keep = 0 if mark else _overlap(before, self._drop)
            shown, self._held = before[: len(before) - keep], before[len(before) - keep :] + rest
            self._drop = "" if mark else self._drop
        if shown:
            parts.append(("answer", shown))
        return False

    def _tell(self, parts: list[Part], kind: Kind, text: str) -> None:
        text = text.lstrip() if self._blank else text
        if text:
            self._blank = False
            parts.append((kind, text))


class _Harmony:
    """gpt-oss: `<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final...`.

    A message to a tool is told as it stands, its header with it, for whoever reads tool calls.
    """

    def __init__(self, prompt: str) -> None:
        tail = prompt[-200:]
        self._channel: str | None = None  # None: in a header, or before the first
        opened = tail.rfind(_MESSAGE)
        if opened >= 0 and not tail[opened + len(_MESSAGE) :].strip():
            header = tail[:opened].rpartition(_CHANNEL)[2]
            self._channel = header.split()[0] if header.split() else "final"
        self._held = ""

    def feed(self, text: str) -> list[Part]:
        self._held += text
        parts: list[Part] = []
        while self._step(parts):
            pass
        return parts

    def finish(self) -> list[Part]:
        held, self._held = self._held, ""
        if self._channel is None and held.startswith((_START, _CHANNEL)):
            return []
        return [(self._kind(), held)] if held else []

    def _kind(self) -> Kind:
        return "thinking" if self._channel == "analysis" else "answer"

    def _step(self, parts: list[Part]) -> bool:
        if self._channel is None:
            return self._header(parts)
        found = [(at, end) for end in _HARMONY_ENDS if (at := self._held.find(end)) >= 0]
        if found:
            at, end = min(found)
            self._tell(parts, self._held[:at])
            starts = end in (_START, _CHANNEL)
            self._held = self._held[at if starts else at + len(end) :]
            self._channel = None
            return True
        keep = max(_overlap(self._held, end) for end in _HARMONY_ENDS)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        self._tell(parts, shown)
        return False

    def _header(self, parts: list[Part]) -> bool:
        text = self._held.lstrip()
        if not text or any(mark.startswith(text) for mark in (_START, _CHANNEL)):
            return False
        if not text.startswith((_START, _CHANNEL)):
            self._channel = "final"  # no channel at all: what is said is the answer
            return True
        header, mark, rest = text.partition(_MESSAGE)
        if not mark:
            return False
        words = header.rpartition(_CHANNEL)[2].split()
        if any(word.startswith("to=") for word in header.split()):
            self._held, self._channel = rest, "tool"
            parts.append(("answer", header + mark))
        else:
            self._held, self._channel = rest, words[0] if words else "final"
        return True

    def _tell(self, parts: list[Part], text: str) -> None:
        if text:
            parts.append((self._kind(), text))


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that begins `mark`."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[-length:]):
            return length
    return 0
