"""Texts as examples: in chunks of the length that the model is trained on.

Each document begins with BOS where the vocabulary wants one and ends with EOS; each chunk begins
with BOS, as a context does. No chunk holds parts of two documents: to put short ones together is
packing, which keeps them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from localllm.finetune.data.dialect import Dialect
from localllm.finetune.data.rows import Text
from localllm.finetune.data.turns import Encoded


class Chunker:
    """Takes the pieces of documents in order, and gives chunks as they get full."""

    def __init__(self, dialect: Dialect, length: int) -> None:
        tokenizer = dialect.tokenizer
        self._bos = [tokenizer.bos] if tokenizer.adds_bos and tokenizer.bos is not None else []
        self._eos = [] if tokenizer.eos is None else [tokenizer.eos]
        self._room = length - len(self._bos)
        self._held: list[int] = []

    def feed(self, piece: Text, ids: Sequence[int]) -> list[Encoded]:
        """The chunks that `piece`, whose tokens are `ids`, completes; with the last piece of a
        document, all of it."""
        if piece.first:
            self._held = []
        held = self._held
        held.extend(ids)
        if piece.last:
            held += self._eos
        end = len(held) if piece.last else len(held) - len(held) % self._room
        chunks = [self._chunk(held[i : i + self._room]) for i in range(0, end, self._room)]
        self._held = held[end:]
        return [chunk for chunk in chunks if chunk.n_targets]

    def _chunk(self, body: list[int]) -> Encoded:
        ids = self._bos + body
        return Encoded(ids, [(1, len(ids))] if len(ids) > 1 else [])
