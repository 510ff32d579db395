"""A vocabulary's tokens as a tree of characters, for asking a grammar about all of them at once."""

from __future__ import annotations

import codecs
import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localllm.engine import native
from localllm.engine.matching.rules import LAST_CODE
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
    """Takes about half a second for 262k tokens, once a model.

    End-of-generation tokens are none of these, nor tokens without a text (llama.cpp holds no
    grammar to either), nor any whose bytes are no UTF-8.
    """
    texts: list[str] = []
    tokens: list[int] = []
    rests: dict[int, tuple[int, int]] = {}  # of tokens that end within a character
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
            texts.append(read[0])
            tokens.append(token)
            if read[1]:
                rests[token] = span(read[1])
    order = sorted(range(len(texts)), key=texts.__getitem__)  # one beginning: in a row
    texts, tokens = [texts[i] for i in order], [tokens[i] for i in order]
    nothing = texts.count("")
    root = tuple(Partial(*rests[token], 0, token) for token in tokens[:nothing])
    codes, levels = _levels(texts, tokens, rests)
    return Vocabulary(tokenizer.n_vocab, codes, levels, root, tuple(begun), eog)


def _levels(
    texts: Sequence[str], tokens: Sequence[int], rests: Mapping[int, tuple[int, int]]
) -> tuple[Any, tuple[Level, ...]]:
    """The code points that occur, and the tree of texts in order. All in numpy: a loop over a
    quarter of a million of them would be most of the time."""
    import numpy as np

    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    offsets = np.cumsum(lengths) - lengths
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
    occurs = np.zeros(LAST_CODE + 1, bool)
    occurs[points] = True
    places = (np.cumsum(occurs, dtype=np.int32) - 1)[points]
    owner = np.array(tokens, np.int32)
    node = np.zeros(len(texts), np.int64)  # of each text, at the level above
    n_above, levels = 1, []
    for depth in range(int(lengths.max(initial=0))):
        deep = np.flatnonzero(lengths > depth)
        code, above = places[offsets[deep] + depth], node[deep]
        new = np.ones(len(deep), bool)
        new[1:] = (code[1:] != code[:-1]) | (above[1:] != above[:-1])
        here = np.cumsum(new) - 1
        node[deep] = here
        first = np.searchsorted(above[new], np.arange(n_above + 1)).astype(np.int32)
        ending = lengths[deep] == depth + 1
        token, token_node = owner[deep[ending]], here[ending].astype(np.int32)
        cut = np.isin(token, list(rests))
        pairs = zip(token[cut].tolist(), token_node[cut].tolist(), strict=True)
        partial = tuple(Partial(*rests[one], at, one) for one, at in pairs)
        levels.append(Level(code[new], first, token[~cut], token_node[~cut], partial))
        n_above = int(here[-1]) + 1
    return np.flatnonzero(occurs), tuple(levels)


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
