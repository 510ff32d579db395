"""What rows say, as digests: of all of them for lineage, and of each to find it again."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator
from typing import Any

from localllm.finetune.data.rows import Chat, Preference, Text
from localllm.generation import Message


class Fingerprints:
    """Takes records in order. The pieces of a document count together, at the last."""

    def __init__(self) -> None:
        self._all = hashlib.sha256()
        self._exact: set[bytes] = set()
        self._plain: dict[bytes, int] = {}
        self._document: tuple[Any, Any] | None = None
        self.n_exact = self.n_same = 0  # rows that repeat an earlier one, to the letter or nearly

    @property
    def sha256(self) -> str:
        """Of what all rows say, in order: the same for the same rows in another file or format."""
        return self._all.hexdigest()

    def add(self, record: Chat | Preference) -> tuple[int, bool]:
        """The record's group (the same for all that say the same, but for case and spaces), and
        whether an earlier one said the same."""
        canonical = json.dumps(_said(record), ensure_ascii=False, sort_keys=True)
        plain = "\0".join(_texts(record))
        return self._found(_short(canonical), _short(plain))

    def add_piece(self, piece: Text) -> tuple[int, bool] | None:
        """The same for a document, at its last piece; None for a piece before."""
        if piece.first or self._document is None:
            self._document = (hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16))
        exact, plain = self._document
        exact.update(piece.text.encode("utf-8", "replace"))
        for word in _plain(piece.text).split():  # so that where pieces end does not matter
            plain.update(word.encode("utf-8", "replace") + b" ")
        if not piece.last:
            return None
        self._document = None
        return self._found(exact.digest(), plain.digest())

    def _found(self, exact: bytes, plain: bytes) -> tuple[int, bool]:
        self._all.update(exact)
        repeats = plain in self._plain
        if exact in self._exact:
            self.n_exact += 1
        elif repeats:
            self.n_same += 1
        self._exact.add(exact)
        group = self._plain.setdefault(plain, int.from_bytes(plain[:8], "little", signed=True))
        return group, repeats


def group_of(tokens: bytes) -> int:
    """A group for one chunk of a document: chunks that say the same have the same."""
    digest = hashlib.blake2b(tokens, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _short(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


def _plain(text: str) -> str:
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def _said(record: Chat | Preference) -> Any:
    if isinstance(record, Chat):
        return [[_message(m) for m in record.messages], record.counts, record.tools]
    sides = (record.prompt, record.chosen, record.rejected)
    return [[[_message(m) for m in side] for side in sides], record.tools]


def _message(message: Message) -> Any:
    return [message.role, message.content, dict(message.extra)]


def _texts(record: Chat | Preference) -> Iterator[str]:
    if isinstance(record, Chat):
        messages: tuple[Message, ...] = record.messages
    else:
        messages = (*record.prompt, *record.chosen, *record.rejected)
    for message in messages:
        yield f"{message.role} {_plain(message.content)}"
        if calls := message.extra.get("tool_calls"):
            yield json.dumps(calls, ensure_ascii=False, sort_keys=True)
