"""Harmony, the channels of gpt-oss: analysis (thinking), commentary (calls), final (the answer).

    <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>

The prompt ends in `<|start|>assistant`, so an answer may begin in the middle of a header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from localllm.grammars.nodes import (
    EMPTY,
    Node,
    alt,
    optional,
    seq,
)
from localllm.grammars.strings import without
from localllm.toolcalls.calls import Found, Tool
from localllm.toolcalls.forcing import Forcing
from localllm.toolcalls.reading import Attempt, NoCall, Reading

_MESSAGE, _CHANNEL, _START = "<|message|>", "<|channel|>", "<|start|>assistant"
_ENDS = ("<|end|>", "<|return|>", "<|call|>")
_TO = r"(?:\s*to=(?P<{}>[^\s<]+))?"
_HEADER = re.compile(
    rf"{_TO.format('role')}\s*(?:<\|channel\|>)?(?P<channel>\w+)?{_TO.format('to')}"
    r"(?:<\|channel\|>\w+)?\s*(?:<\|constrain\|>)?\s*(?:\w+)?\s*"
)
_MAX_HEADER = 400


@dataclass(frozen=True)
class Harmony:
    openers: tuple[str, ...] = (_START, _CHANNEL, *_ENDS)
    bare: bool = False

    def read(
        self, attempt: Attempt, opener: str, tools: Mapping[str, Tool]
    ) -> Reading[list[Found]]:
        if opener in _ENDS:
            attempt.thinking = False
            return []
        start = attempt.at
        yield from attempt.until(_MESSAGE)
        header = attempt.text[start : attempt.at - len(_MESSAGE)]
        match = _HEADER.fullmatch(header) if len(header) <= _MAX_HEADER else None
        if match is None:
            raise NoCall
        recipient = match["role"] or match["to"] or ""
        attempt.thinking = match["channel"] == "analysis" and not recipient
        name = recipient.removeprefix("functions.")
        if name == recipient:
            return []  # text, or a call of something that is not ours
        yield from attempt.space()
        arguments = yield from attempt.json()
        if not arguments.startswith("{"):
            raise NoCall
        attempt.thinking = False
        return [Found(name, arguments)]

    def node(self, forcing: Forcing, begun: bool) -> Node:
        """The calls; with `begun` after `to=functions.`"""
        typed = optional(alt(" json", " <|constrain|>json", "<|constrain|>json"))
        channel = optional(seq(_CHANNEL, alt("commentary", "analysis"))) if begun else EMPTY
        calls = [
            seq(name, channel, typed, _MESSAGE, forcing.arguments(n))
            for n, name in enumerate(forcing.names)
        ]
        if begun:
            return alt(*calls)
        thinking = seq(f"{_CHANNEL}analysis{_MESSAGE}", without(forcing.grammar, "<|end|>"),
                       "<|end|>", _START)  # fmt: skip
        return seq(optional(thinking), f"{_CHANNEL}commentary to=functions.", alt(*calls))
