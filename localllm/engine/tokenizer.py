"""Text to tokens and back, by the model's own vocabulary."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from localllm.engine import native
from localllm.errors import EngineError, UsageProblem

if TYPE_CHECKING:
    from localllm.engine.model import Model

_INT32_MAX = 2**31 - 1


class Tokenizer:
    """One model's vocabulary. Keeps the model alive; safe to use from threads.

    llama.cpp ends the process on ids outside the vocabulary and on special tokens that a
    file announces but does not name: those are caught here.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._llama = native.lib()
        self._pieces: dict[int, bytes] = {}
        if self._llama.llama_vocab_type(self.vocab_handle) == self._llama.LLAMA_VOCAB_TYPE_NONE:
            raise EngineError(f"{model.path.name} has no vocabulary")

    @property
    def vocab_handle(self) -> int:
        """The llama_vocab pointer; it belongs to the model."""
        return int(self._llama.llama_model_get_vocab(self._model.handle))

    @cached_property
    def n_vocab(self) -> int:
        return int(self._llama.llama_vocab_n_tokens(self.vocab_handle))

    @cached_property
    def bos(self) -> int | None:
        """Beginning of sequence, None if the vocabulary has none. So are the others."""
        return self._special("bos")

    @cached_property
    def eos(self) -> int | None:
        return self._special("eos")

    @cached_property
    def eot(self) -> int | None:
        """End of turn, as in <|im_end|>."""
        return self._special("eot")

    @cached_property
    def sep(self) -> int | None:
        return self._special("sep")

    @cached_property
    def pad(self) -> int | None:
        return self._special("pad")

    @cached_property
    def newline(self) -> int | None:
        return self._special("nl")

    @cached_property
    def infill(self) -> tuple[int, int, int] | None:
        """What a model that fills gaps knows the text before it, the one after it, and the gap
        by (FIM: prefix, suffix, middle); None for others."""
        found = tuple(self._special(f"fim_{name}") for name in ("pre", "suf", "mid"))
        before, after, gap = found
        return None if before is None or after is None or gap is None else (before, after, gap)

    @cached_property
    def adds_bos(self) -> bool:
        """Whether `encode` puts BOS in front of a text of its own accord."""
        return bool(self._llama.llama_vocab_get_add_bos(self.vocab_handle)) and self.bos is not None

    @cached_property
    def adds_eos(self) -> bool:
        return bool(self._llama.llama_vocab_get_add_eos(self.vocab_handle)) and self.eos is not None

    def is_eog(self, token: int) -> bool:
        """End of generation: EOS, end of turn, and what else the vocabulary ends with."""
        return bool(self._llama.llama_vocab_is_eog(self.vocab_handle, self._checked(token)))

    def is_control(self, token: int) -> bool:
        return bool(self._llama.llama_vocab_is_control(self.vocab_handle, self._checked(token)))

    @cached_property
    def eog_tokens(self) -> frozenset[int]:
        is_eog, vocab = self._llama.llama_vocab_is_eog, self.vocab_handle
        return frozenset(token for token in range(self.n_vocab) if is_eog(vocab, token))

    @cached_property
    def suppressed(self) -> tuple[int, ...]:
        """Tokens that the model file says must never be generated."""
        count = ctypes.c_int32(0)
        array = self._llama.llama_vocab_get_suppress_tokens(self.vocab_handle, ctypes.byref(count))
        listed = (int(array[i]) for i in range(count.value)) if array else ()
        return tuple(token for token in listed if 0 <= token < self.n_vocab)

    def token_id(self, text: str) -> int | None:
        """The one token that is written so ("<|im_end|>", or "<[42]>" by number), or None."""
        number = re.fullmatch(r"<\[([0-9]{1,9})\]>", text)
        if number:
            return int(number[1]) if int(number[1]) < self.n_vocab else None
        tokens = self.encode(text, add_special=False, parse_special=True)
        return tokens[0] if len(tokens) == 1 else None

    def text(self, token: int) -> str:
        """The token as the vocabulary writes it: "Ġthe", "▁the", "<0x0A>"."""
        raw = self._llama.llama_vocab_get_text(self.vocab_handle, self._checked(token))
        return (raw or b"").decode("utf-8", "replace")

    def encode(
        self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Tokens of `text`.

        `add_special` adds BOS and EOS as the vocabulary wants them. `parse_special` reads
        "<|im_end|>" in the text as that one token: for rendered templates, never for what
        a user typed.
        """
        # Invalid UTF-8 ends the process in some vocabularies: it becomes U+FFFD here.
        valid = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        raw = valid.encode("utf-8", "replace")
        if len(raw) > _INT32_MAX:
            raise UsageProblem(f"a text of {len(raw)} bytes is more than llama.cpp takes at once")
        if not self._can_add_special:
            add_special = False
        size = len(raw) + 8
        while True:
            buffer = (ctypes.c_int32 * size)()
            n = int(
                self._llama.llama_tokenize(
                    self.vocab_handle, raw, len(raw), buffer, size, add_special, parse_special
                )
            )
            if n >= 0:
                return buffer[:n]
            if -n > _INT32_MAX - 8:
                raise UsageProblem("the text has more tokens than llama.cpp can count")
            size = -n

    def decode_bytes(self, tokens: Sequence[int], *, special: bool = False) -> bytes:
        """The text of `tokens`, byte for byte what was encoded.

        Without `special`, BOS, EOS and control tokens leave nothing.
        """
        # Not llama_detokenize: it "cleans up" spaces before punctuation in some vocabularies.
        pieces = [self._piece(self._checked(t), True) if special else self.piece(t) for t in tokens]
        text = b"".join(pieces)
        return text[1:] if self._adds_space and text[:1] == b" " else text

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """`decode_bytes` as text; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(tokens, special=special).decode("utf-8", "replace")

    def piece(self, token: int) -> bytes:
        """What one generated token adds to a text; b"" for control tokens. Cached."""
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = self._piece(self._checked(token), False)
        return found

    def special_piece(self, token: int) -> bytes:
        """The same, with control tokens as the vocabulary writes them ("<|channel|>")."""
        return self.piece(token) or self._piece(self._checked(token), True)

    def _piece(self, token: int, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = int(
                self._llama.llama_token_to_piece(self.vocab_handle, token, buffer, size, 0, special)
            )
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    @cached_property
    def _adds_space(self) -> bool:
        """Whether encoding puts a space in front of a text, as SentencePiece does."""
        first = self.encode("a", add_special=False)[:1]
        return b"".join(map(self.piece, first)).startswith(b" ")

    def _special(self, name: str) -> int | None:
        function: Any = getattr(self._llama, f"llama_vocab_{name}")
        token = int(function(self.vocab_handle))
        return token if 0 <= token < self.n_vocab else None

    @cached_property
    def _can_add_special(self) -> bool:
        """llama.cpp asserts that a token it is told to add exists; a file may lie."""
        llama, vocab = self._llama, self.vocab_handle
        wants = (
            (llama.llama_vocab_get_add_bos(vocab), self.bos),
            (llama.llama_vocab_get_add_eos(vocab), self.eos),
            (llama.llama_vocab_get_add_sep(vocab), self.sep),
        )
        return all(token is not None for wanted, token in wants if wanted)

    def _checked(self, token: int) -> int:
        if not 0 <= token < self.n_vocab:
            raise UsageProblem(f"{token} is no token of this vocabulary of {self.n_vocab}")
        return token
