"""What llama.cpp's grammar sampler lets through, byte by byte, over a tiny vocabulary."""

from __future__ import annotations

import ctypes
import math
import random
from typing import Any

from localllm.engine import native
from localllm.engine.grammar import check_grammar
from localllm.engine.model import Model


class GrammarWalk:
    """llama.cpp's grammar sampler for `text`, which the engine's own check must take too."""

    def __init__(self, model: Model, text: str) -> None:
        check_grammar(text, model.tokenizer.token_id)
        self._llama = llama = native.lib()
        self._tokenizer = model.tokenizer
        self._handle = llama.llama_sampler_init_grammar(
            model.tokenizer.vocab_handle, text.encode(), b"root"
        )
        assert self._handle, text
        self._bytes = {
            piece: token
            for token in reversed(range(model.tokenizer.n_vocab))
            if len(piece := model.tokenizer.piece(token)) == 1
        }

    def __enter__(self) -> GrammarWalk:
        return self

    def __exit__(self, *_: object) -> None:
        self._llama.llama_sampler_free(self._handle)

    def accepts(self, text: str) -> bool:
        """Whether the whole of `text` may be written, and the answer may end there."""
        return self.refused_at(text) is None

    def refused_at(self, text: str) -> int | None:
        """The first byte that is refused; the length where it must go on; None if all is well."""
        content = text.encode()
        for at, byte in enumerate(content):
            token = self._bytes[bytes([byte])]
            if not self._allowed([token]):
                return at
            self._llama.llama_sampler_accept(self._handle, token)
        eos = self._tokenizer.eos
        assert eos is not None
        return None if self._allowed([eos]) else len(content)

    def write(
        self, rng: random.Random, most: int = 1500, hurry_after: int = 100, ends: str = ""
    ) -> str | None:
        """A random text of the grammar, in ASCII where it may be; None where it has not ended
        after `most` characters. `ends` is what a free text in it ends with, which chance would
        never find."""
        eos = self._tokenizer.eos
        assert eos is not None
        pieces = {token: piece for piece, token in self._bytes.items()}
        ascii_only = [*(t for t, piece in pieces.items() if piece < b"\x80"), eos]
        written = b""
        for step in range(most):
            allowed = self._allowed(ascii_only) or self._allowed([*pieces])
            assert allowed, f"nothing may follow {written!r}"
            if eos in allowed and (len(allowed) == 1 or step > hurry_after or rng.random() < 0.3):
                return written.decode()
            allowed = [t for t in allowed if t != eos]
            token = self._choice(rng, allowed, pieces, written, step > hurry_after, ends.encode())
            self._llama.llama_sampler_accept(self._handle, token)
            written += pieces[token]
        return None

    def _choice(
        self,
        rng: random.Random,
        allowed: list[int],
        pieces: dict[int, bytes],
        written: bytes,
        hurry: bool,
        ends: bytes,
    ) -> int:
        if ends and (hurry or rng.random() < 0.5):
            begun = max(n for n in range(len(ends)) if written.endswith(ends[:n]))
            going_on = [t for t in allowed if pieces[t] == ends[begun : begun + 1]]
            if going_on and (begun or len(allowed) > 20):
                return going_on[0]
        closing = [t for t in allowed if pieces[t] in b'"}]']
        blank = [t for t in allowed if pieces[t] in b" \n\t"]
        if closing and (hurry or rng.random() < 0.4):
            return rng.choice(closing)
        if hurry and len(blank) < len(allowed):
            allowed = [t for t in allowed if t not in blank]
        return rng.choice(allowed)

    def _allowed(self, tokens: list[int]) -> list[int]:
        llama: Any = self._llama
        many = (llama.llama_token_data * len(tokens))(*((t, 1.0, 0.0) for t in tokens))
        array = llama.llama_token_data_array(many, len(tokens), -1, False)
        llama.llama_sampler_apply(self._handle, ctypes.byref(array))
        return [int(one.id) for one in many if one.logit != -math.inf]
