"""One answer's way through a grammar, token by token."""

from __future__ import annotations

from typing import Any

from localllm.engine.matching.desk import Engaged
from localllm.engine.matching.masks import fitting
from localllm.engine.matching.stacks import Stacks
from localllm.engine.matching.vocabulary import decoded, span
from localllm.engine.tokenizer import Tokenizer


class Walker:
    """Where one answer stands. Every call is bounded, and raises TooManyWays at its bound."""

    def __init__(self, tokenizer: Tokenizer, engaged: Engaged) -> None:
        self._piece = tokenizer.special_piece
        self._engaged = engaged
        self._machine = engaged.machine
        self._eog = engaged.vocabulary.eog
        self._stacks: Stacks = self._machine.start
        self._begun = b""  # bytes of a character that is not complete

    def prove(self) -> None:
        """What may come first, so that a grammar that cannot be followed is refused before
        anything is computed."""
        with self._engaged.lock:
            self._machine.begin_step()
            if not self._begun:
                fitting(self._engaged, self._stacks)

    def fits(self, token: int) -> bool:
        """Whether `token` may come next."""
        with self._engaged.lock:
            self._machine.begin_step()
            return self._after(token) is not None

    def take(self, token: int) -> bool:
        """Go on by `token`. False, and nothing changed, where it does not fit."""
        with self._engaged.lock:
            self._machine.begin_step()
            after = self._after(token)
            if after is None:
                return False
            self._stacks, self._begun = after
        return True

    def choices(self) -> Any:
        """All tokens that may come next, in order: int32."""
        import numpy as np

        with self._engaged.lock:
            self._machine.begin_step()
            if self._begun:
                pieces = self._engaged.vocabulary.begun
                found = [token for token, _ in pieces if self._after(token) is not None]
                return np.array(found, np.int32)
            return fitting(self._engaged, self._stacks)

    def _after(self, token: int) -> tuple[Stacks, bytes] | None:
        machine = self._machine
        if token in self._eog:
            complete = machine.open(self._stacks).ends and not self._begun
            return (self._stacks, b"") if complete else None
        raw = self._piece(token)
        if not raw or raw[0] == 0:
            return None
        named = None if self._begun else machine.take_token(self._stacks, token)
        spelled, rest = self._spelled(raw)
        if spelled is not None and rest and named is not None:
            return named, b""  # half a character would have to be remembered for one of both
        joined = machine.join(named, spelled)
        return None if joined is None else (joined, rest)

    def _spelled(self, raw: bytes) -> tuple[Stacks | None, bytes]:
        """What its characters lead to, and what of them is not complete."""
        read = decoded(self._begun + raw)
        if read is None:
            return None, b""
        machine, codes = self._machine, self._machine.positions.codes
        stacks: Stacks | None = self._stacks
        for char in read[0]:
            assert stacks is not None
            stacks = machine.move(stacks, codes.of(ord(char)))
            if stacks is None:
                return None, b""
        if read[1] and stacks is not None and not self._engaged.may_become(stacks, span(read[1])):
            return None, b""
        return stacks, read[1]
