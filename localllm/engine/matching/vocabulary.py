"""A vocabulary's tokens as a tree of characters, for asking a grammar about all of them at once."""

from __future__ import annotations

import codecs
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from localllm.engine import native
from localllm.engine.tokenizer import Tokenizer


@dataclass(frozen=True)
class Partial:
    """Tokens that end within a character: what it may become, `low` to `high`."""

    low: int
    high: int
    node: int  # of its level
    token: int


@dataclass(frozen=True)
class Level:
    """Nodes at one depth, those of one parent in a row.

    `code` indexes Vocabulary.codes. Children of node i of the level above are `first[i]` to
    `first[i + 1]`; `token` and `token_node` are the tokens that end here, and where.
    """

    code: Any  # int32 (nodes,)
    first: Any  # int32 (nodes of the level above + 1,)
    token: Any  # int32
    token_node: Any  # int32, ascending
    partial: tuple[Partial, ...]


@dataclass(frozen=True)
class Vocabulary:
    """`levels` by depth from 1 on; `root_partial` are tokens that begin within a character's
    first byte only. `begun` are those that begin with the rest of one, with their bytes: what
    they are depends on what was written before."""

    n_tokens: int
    codes: Any  # int64: each code point that occurs, ascending
    levels: tuple[Level, ...]
    root_partial: tuple[Partial, ...]
    begun: tuple[tuple[int, bytes], ...]
    eog: frozenset[int]


def read_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Takes about a second for 262k tokens, once a model.

    End-of-generation tokens are none of these, nor tokens without a text (llama.cpp holds no
    grammar to either), nor any whose bytes are no UTF-8.
    """
    import numpy as np

    whole: list[tuple[str, int, tuple[int, int] | None]] = []
    begun: list[tuple[int, bytes]] = []
    eog = tokenizer.eog_tokens
    for token, raw in enumerate(_pieces(tokenizer)):
        if not raw or token in eog or b"\0" in raw:
            continue
        if raw[0] & 0xC0 == 0x80:
            begun.append((token, raw))
            continue
        read = decoded(raw)
        if read is not None:
            whole.append((read[0], token, span(read[1]) if read[1] else None))
    whole.sort(key=lambda one: one[0])
    lengths = np.fromiter((len(text) for text, _, _ in whole), np.int64, len(whole))
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    joined = "".join(text for text, _, _ in whole).encode("utf-32-le", "surrogatepass")
    codes, places = np.unique(np.frombuffer(joined, "<u4"), return_inverse=True)
    levels = _levels(whole, lengths, offsets[:-1], places.astype(np.int32))
    root = tuple(Partial(*rest, 0, t) for text, t, rest in whole if not text and rest)
    return Vocabulary(tokenizer.n_vocab, codes.astype(np.int64), levels, root, tuple(begun), eog)


def _levels(whole: Sequence[Any], lengths: Any, offsets: Any, places: Any) -> tuple[Level, ...]:
    """Of texts in order, so that those with one beginning stand in a row."""
    import numpy as np

    node = np.zeros(len(whole), np.int64)  # of each text, at the level above
    n_above, levels = 1, []
    for depth in range(int(lengths.max(initial=0))):
        deep = np.flatnonzero(lengths > depth)
        code, above = places[offsets[deep] + depth], node[deep]
        new = np.ones(len(deep), bool)
        new[1:] = (code[1:] != code[:-1]) | (above[1:] != above[:-1])
        here = np.cumsum(new) - 1
        node[deep] = here
        first = np.searchsorted(above[new], np.arange(n_above + 1)).astype(np.int32)
        ending = np.flatnonzero(lengths[deep] == depth + 1)
        plain, partial = [], []
        for place in ending.tolist():
            _, token, rest = whole[deep[place]]
            if rest is None:
                plain.append((token, int(here[place])))
            else:
                low, high = rest
                partial.append(Partial(low, high, int(here[place]), token))
        table = np.array(plain, np.int32).reshape(-1, 2)
        levels.append(Level(code[new], first, table[:, 0], table[:, 1], tuple(partial)))
        n_above = int(here[-1]) + 1
    return tuple(levels)


def _pieces(tokenizer: Tokenizer) -> list[bytes]:
    """Every token's bytes, control tokens as they are written. One buffer for all: a quarter of
    a million of them are asked for."""
    llama, vocab, size = native.lib(), tokenizer.vocab_handle, 1 << 12
    buffer = ctypes.create_string_buffer(size)
    found = []
    for token in range(tokenizer.n_vocab):
        n = llama.llama_token_to_piece(vocab, token, buffer, size, 0, True)
        found.append(ctypes.string_at(buffer, n) if n >= 0 else tokenizer.special_piece(token))
    return found


def decoded(raw: bytes) -> tuple[str, bytes] | None:
    """Whole characters, and the bytes of one that is not complete; None for what is no UTF-8."""
    try:
        return raw.decode(), b""  # nearly always
    except UnicodeDecodeError:
        pass
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(raw)
    except UnicodeDecodeError:
        return None
    return text, decoder.getstate()[0]


def span(begun: bytes) -> tuple[int, int]:
    """The least and the greatest code point whose UTF-8 begins with these bytes."""
    n_rest = {0b110: 1, 0b1110: 2, 0b11110: 3}
    lead = next(n for bits, n in n_rest.items() if begun[0] >> (6 - n) == bits)
    value = begun[0] & ((1 << (6 - lead)) - 1)
    for byte in begun[1:]:
        value = value << 6 | byte & 0x3F
    missing = 6 * (lead - len(begun) + 1)
    least = {1: 0x80, 2: 0x800, 3: 0x10000}[lead]
    return max(value << missing, least), min((value + 1 << missing) - 1, 0x10FFFF)
