"""Room in one context: which sequences are free, what is held of requests that ended, and what
goes to main memory when others need its cells."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from localllm.engine.context import Context
from localllm.engine.scheduler.cells import CellBook
from localllm.engine.scheduler.pace import Pace
from localllm.engine.scheduler.prefix import Held, Saved, Store, common_length

MIN_COPIED = 32  # tokens: of fewer, a copy costs more than computing them anew


@dataclass(frozen=True)
class Holding:
    """How much may be kept of requests that ended.

    `cells_share` of the context's cells at most, and while others are at work `active_share` of
    theirs, as far as the rest can go to main memory: attention passes over all cells in use, so
    each step pays for them. `saved_bytes` of main memory for sequences that left their cells,
    and for places of windowed and recurrent models (7.8 MB each for Gemma 3 270M). A sequence is
    saved if that takes at most `save_worth` of the time in which it could be computed again.
    """

    cells_share: float = 0.5
    active_share: float = 0.25
    saved_bytes: int = 1024 * 1024 * 1024
    save_worth: float = 0.1


class Room:
    """The sequences of a context and their cells. Driven by the thread that computes."""

    def __init__(self, context: Context, holding: Holding) -> None:
        info = context.model.info
        self.sequences = context.sequences
        self.sequences.clear()
        self.pace = Pace(holding.save_worth)
        pure_state = info.is_recurrent and not info.is_hybrid
        self.pooled = self.sequences.unified and not pure_state
        self.book = CellBook(context.n_ctx if self.pooled else 1 << 60)
        # Sequences that can be computed, and those that can only hold what others computed.
        self._n_seq_max = context.n_seq_max
        self._free = list(range(context.n_seq_max - 1, -1, -1))
        self._shelf = list(range(self.sequences.n_ids - 1, context.n_seq_max - 1, -1))
        self._has_shelf = bool(self._shelf)
        self._held: OrderedDict[int, Held] = OrderedDict()  # by sequence, latest used last
        self._holding = holding
        self._hold_cells = int(context.n_ctx * holding.cells_share)
        self.store = Store(holding.saved_bytes)

    @property
    def n_held(self) -> int:
        return len(self._held)

    @property
    def held_cells(self) -> int:
        """Cells that evicting everything held would free, at least."""
        return sum(self.book.own(sequence) for sequence in self._held)

    def make_room(self, n_cells: int) -> bool:
        """Evict what is held, the longest unused first, until `n_cells` are free."""
        while self.book.free < n_cells:
            if not self.evict():
                return False
        return True

    def evict(self) -> bool:
        """Let the held sequence that was not used for longest go; False if there is none."""
        if not self._held:
            return False
        held = next(iter(self._held.values()))
        if self._worth_saving(held):
            self._save(held)
        self._drop(held)
        return True

    def release(self, sequence: int) -> None:
        """Empty a sequence and make it free."""
        self.sequences.remove(sequence)
        self.book.remove(sequence)
        (self._free if sequence < self._n_seq_max else self._shelf).append(sequence)

    def _acquire(self) -> int:
        if not self._free:
            self.evict()
        return self._free.pop()

    def _drop(self, held: Held) -> None:
        del self._held[held.sequence]
        self.release(held.sequence)

    def _trim(self, n_coming: int = 0) -> None:
        """Keep what is held within its bounds, where `n_coming` tokens will be at work too."""
        if not self.pooled:
            return  # each in a place of its own, in nobody's way
        cells = self.held_cells
        active = self.book.used - cells + n_coming
        while len(self._held) > (0 if active else 1) and cells > self._hold_cells:
            self.evict()
            cells = self.held_cells
        bound = active * self._holding.active_share
        for held in list(self._held.values()) if active else ():
            if cells <= bound:
                break
            if self._worth_saving(held):
                self._save(held)
                self._drop(held)
                cells = self.held_cells

    def _worth_saving(self, held: Held) -> bool:
        if len(held.tokens) < MIN_COPIED or (self._has_shelf and not self._free):
            return False
        size = self.sequences.saved_size(held.sequence, whole=True)
        return self.store.takes(size) and self.pace.pays(size, len(held.tokens))

    def _save(self, held: Held) -> None:
        for one in list(self.store):
            if one.whole and one.key == held.key:
                n = common_length(one.tokens, held.tokens, len(one.tokens))
                if n == len(held.tokens) == len(one.tokens):
                    self.store.touch(one)
                    return
                if n == len(one.tokens) and self.sequences.kind == "attention":
                    self.store.remove(one)  # all of it is in this one
        begun, source = time.perf_counter(), held.sequence
        if self._has_shelf:  # llama.cpp writes only those that can be computed
            source = self._free[-1]
            self.sequences.copy(held.sequence, source, len(held.tokens))
        data = self.sequences.save(source, whole=True)
        if source != held.sequence:
            self.sequences.remove(source)
        self.pace.saved(len(data), time.perf_counter() - begun)
        self.store.add(Saved(held.tokens, held.key, data, whole=True, wide=held.wide))
