"""When a grammar begins in the middle of an answer: after the first of some texts.

llama.cpp has lazy grammars of its own, which end the process where the token that completes the
text goes on with what the grammar does not take. So the text is watched here, and what a token
has beyond it is offered to the grammar first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from localllm.engine.tokenizer import Tokenizer


class Trigger:
    """Watches one answer's tokens for the first of `texts`."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._texts = [text.encode() for text in texts if text]
        self._tail = b""
        self._kept = max((len(text) for text in self._texts), default=1) - 1

    def watch(self, token: int) -> bytes | None:
        """What this token has after one of the texts; None while none has come."""
        seen = self._tail + self._tokenizer.special_piece(token)
        ends = [at + len(text) for text in self._texts if (at := seen.find(text)) >= 0]
        if ends:
            return seen[min(ends) :]
        self._tail = seen[len(seen) - self._kept :] if self._kept < len(seen) else seen
        if not self._kept:
            self._tail = b""
        return None


def offer(tokenizer: Tokenizer, text: bytes, take: Callable[[int], bool]) -> bool:
    """Give `text` to `take` as tokens until it refuses one. Whether all of it was taken."""
    try:
        tokens = tokenizer.encode(text.decode(), add_special=False)
    except UnicodeDecodeError:  # half a character: the rest of it is still to come
        return False
    if b"".join(map(tokenizer.piece, tokens)) != text:  # a SentencePiece vocabulary adds a space
        return not text
    return all(take(token) for token in tokens)
