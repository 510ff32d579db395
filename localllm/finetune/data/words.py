"""Tokens of texts that stand behind others, each text tokenized once.

llama.cpp cuts a text at its control tokens before it tokenizes what lies between, so what stands
behind one is tokenized without regard to what stands before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from localllm.engine.template import encode_prompt
from localllm.engine.tokenizer import Tokenizer

_MARK = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{1,24}\]")
_KEPT = 10_000  # of what is remembered


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the model gets it."""

    text: str
    ids: list[int]


class Words:
    """One vocabulary. Safe to use from threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._marks: dict[int, str] = {}
        self._is_mark: dict[str, bool] = {}
        self._openings: dict[str, list[int]] = {}

    def mark(self, token: int) -> str:
        """How a control token is written, "" for any other token."""
        found = self._marks.get(token)
        if found is None:
            tokenizer = self.tokenizer
            written = tokenizer.text(token) if tokenizer.is_control(token) else ""
            found = self._marks[token] = (
                written if written and self._encode(written) == [token] else ""
            )
        return found

    def marks_in(self, text: str) -> bool:
        """Whether `text` holds what the vocabulary reads as a control token."""
        if "<" not in text and "[" not in text:
            return False
        return any(map(self._reads_as_mark, _MARK.findall(text)))

    def _reads_as_mark(self, text: str) -> bool:
        found = self._is_mark.get(text)
        if found is None:
            token = self.tokenizer.token_id(text)
            found = token is not None and self.tokenizer.is_control(token)
            if len(self._is_mark) < _KEPT:
                self._is_mark[text] = found
        return found

    def after_control(self, known: Asked, text: str) -> list[int] | None:
        """The tokens of `text` behind those of `known`, which it begins with and which ends with a
        control token. None where a longer control token begins with that one."""
        ids = self._encode(self.mark(known.ids[-1]) + text[len(known.text) :])
        return ids[1:] if ids[:1] == known.ids[-1:] else None

    def continued(self, asked: Asked, tail: str) -> tuple[list[int], bool]:
        """The tokens of `tail` behind those of `asked`, which stay as they are, and whether these
        are the tokens of the whole text. They are not where the vocabulary would join what
        stands on both sides: a model that was asked cannot."""
        opening = self._opening(asked)
        if opening is None:
            whole, begin = encode_prompt(self.tokenizer, asked.text + tail), asked.ids
        else:
            whole, begin = self._encode(opening + tail), self._opening_ids(opening)
        if whole[: len(begin)] == begin:
            return whole[len(begin) :], True
        return self.alone(tail, parse_special=True), False

    def _opening(self, asked: Asked) -> str | None:
        """The end of a request from its last control token on: the same for most requests."""
        ids = asked.ids
        for i in range(len(ids) - 1, max(-1, len(ids) - 64), -1):
            if mark := self.mark(ids[i]):
                at = asked.text.rfind(mark)
                return asked.text[at:] if at >= 0 else None
        return None

    def _opening_ids(self, opening: str) -> list[int]:
        found = self._openings.get(opening)
        if found is None:
            found = self._encode(opening)
            if len(self._openings) < _KEPT:
                self._openings[opening] = found
        return found

    def text(self, text: str, *, first: bool = True) -> list[int]:
        """Tokens of a document, or of a later piece of one; nothing in it is a control token."""
        if first:
            return self.tokenizer.encode(text, add_special=False)
        return self.alone(text, parse_special=False)

    def alone(self, text: str, *, parse_special: bool) -> list[int]:
        """Tokens of a text that something stands before."""
        encode, tokenizer = self.tokenizer.encode, self.tokenizer
        if not self._adds_space:
            return encode(text, add_special=False, parse_special=parse_special)
        # SentencePiece puts a space before a text, not after a newline, which joins nothing
        ids = encode("\n" + text, add_special=False, parse_special=parse_special)
        for n in range(1, min(len(ids), 4)):
            if tokenizer.decode_bytes(ids[:n], special=True) == b"\n":
                return ids[n:]
        return encode(text, add_special=False, parse_special=parse_special)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special=False, parse_special=True)

    @cached_property
    def _adds_space(self) -> bool:
        ids = self.tokenizer.encode("a", add_special=False)[:1]
        return b"".join(map(self.tokenizer.piece, ids)).startswith(b" ")
