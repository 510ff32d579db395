"""The sequences of one context: who has which, and what becomes of those that ended.

A sequence that ended stays in its cells ("held") while that slows nobody down, then in main
memory ("saved") while there is room. A request that begins like it, or like one that is still at
work, takes over or copies the beginning instead of computing it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from localllm.engine.context import Context
from localllm.engine.scheduler.cells import CellBook
from localllm.engine.scheduler.pace import Pace
from localllm.engine.scheduler.prefix import Held, Saved, Store, common_length
from localllm.engine.scheduler.search import Found, Search, Source, leader_of
from localllm.engine.scheduler.slot import Slot

# Beginnings of fewer tokens are computed anew: looking after them costs more.
_MIN_SHARED = 4
_MIN_COPIED = 32  # where sharing copies data
_MIN_MARKED = 256  # a prompt this long, or one with images, is remembered at its end
_MARK_APART = 32  # a place is marked if it lies so much further than what could be used


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


class SequenceMemory:
    """Driven by the thread that computes."""

    def __init__(self, context: Context, holding: Holding) -> None:
        info = context.model.info
        self.sequences = context.sequences
        self.sequences.clear()
        self.pace = Pace(holding.save_worth)
        pure_state = info.is_recurrent and not info.is_hybrid
        self.pooled = self.sequences.unified and not pure_state
        self._unshare = self.pooled and info.n_swa > 0 and not context.options.swa_full
        copies = self._unshare or not self.sequences.unified
        self._least = _MIN_COPIED if copies else _MIN_SHARED
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
        self._search = Search(self.sequences, self._held, self.store)

    # --- room ----------------------------------------------------------------------------

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
        if len(held.tokens) < _MIN_COPIED or (self._has_shelf and not self._free):
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

    # --- beginning -----------------------------------------------------------------------

    def place(self, slot: Slot, running: Iterable[Slot]) -> None:
        """Give `slot` a sequence with as much of its tokens as there is, or one to wait for."""
        limit = len(slot.tokens) - 1  # the last token's logits are what comes next
        source: Source | None = None
        if slot.job.request.cache_prompt:
            others = [other for other in running if other is not slot and other.key == slot.key]
            found = self._search.find(slot, others, limit)
            source = self._usable(found)
            n = source.n if source else 0
            leader = leader_of(slot, others, limit, n)
            if leader is not None:
                self._follow(slot, *leader)
                return
            if self.sequences.kind != "attention" and found.furthest >= n + _MARK_APART:
                slot.marks.add(found.furthest)  # the next one to part here will find it
        slot.sequence = self._take(source, slot) if source else self._acquire()
        # All of the source, or nothing: after an image of M-RoPE a length tells no more.
        slot.fed = source.n if source and self.sequences.length(slot.sequence) else 0
        long = limit - slot.fed >= _MIN_MARKED or slot.media is not None
        if self.sequences.kind != "attention" and long:
            slot.marks.add(limit)
        if not slot.begun_at:
            slot.begun_at = time.perf_counter()
            for sample in slot.samples:
                sample.cached_tokens = slot.cells(slot.fed)
        self._trim(slot.cells_left)

    def _follow(self, slot: Slot, leader: Slot, at: int) -> None:
        """Wait until `leader` has come to `at`, to copy that."""
        slot.leader, slot.leader_at = leader, at
        if self.sequences.kind != "attention":
            leader.marks.add(at)

    def _usable(self, found: Found) -> Source | None:
        source = found.source
        if source is None:
            return None
        whole = source.held is not None and source.n == len(source.held.tokens)
        return source if source.n >= self._least or whole else None

    def _take(self, source: Source, slot: Slot) -> int:
        """A sequence that holds what was found; on failure an empty one."""
        if source.place is not None:
            self.store.touch(source.place)
        if source.saved is not None:
            return self._read_back(source, source.saved, slot)
        held = source.held
        if held is not None:
            self._held.move_to_end(held.sequence)  # the last to be evicted for a free sequence
            whole = source.place is None and source.n == len(held.tokens)
            in_place = source.place is not None and not self.sequences.unified
            if whole or in_place or not (self._free or len(self._held) > 1):
                return self._take_over(held, source, slot)
        return self._copied(source, slot)

    def _take_over(self, held: Held, source: Source, slot: Slot) -> int:
        sequence = held.sequence
        del self._held[sequence]
        if self._has_shelf:
            taken = self._copied(source, slot)
            self.release(sequence)
            return taken
        if source.place is None:
            self._cut(sequence, source, slot)
            return sequence
        if self.sequences.kind == "state":  # its cells cannot be cut without its state
            self.release(sequence)
            return self._acquire()
        self.sequences.prune(sequence, source.n)
        self.book.cut(sequence, slot.cells(source.n))
        return self._restored(sequence, source.place)

    def _cut(self, sequence: int, source: Source, slot: Slot) -> None:
        kept = self.sequences.truncate(source.n, sequence)
        self.book.cut(sequence, slot.cells(source.n) if kept else 0)

    def _copied(self, source: Source, slot: Slot) -> int:
        assert source.sequence is not None
        target = self._acquire()
        if source.place is not None:
            self.sequences.graft(source.sequence, target, source.n)
            self.book.share(source.sequence, target, slot.cells(source.n))
            return self._restored(target, source.place)
        copied = self.sequences.copy(source.sequence, target, source.n)
        self.book.share(source.sequence, target, slot.cells(source.n) if copied else 0)
        if copied and self._unshare:
            # Cells of windows that two sequences share could not be used again when both have
            # moved on: let the copy have its own.
            data = self.sequences.save(target, whole=False)
            tokens = slot.tokens[: source.n]
            place = Saved(tokens, slot.key, data, whole=False, wide=slot.wide)
            if not self.store.has(place.tokens, place.key, whole=False):
                self.store.add(place)
            return self._restored(target, place)
        return target

    def _read_back(self, source: Source, saved: Saved, slot: Slot) -> int:
        """From main memory."""
        target = self._acquire()
        self.store.touch(saved)
        if not self.make_room(saved.n_cells):
            return target
        if not self.sequences.restore(target, saved.data, whole=True):
            self.sequences.remove(target)
            return target
        self.book.grow(target, saved.n_cells)
        if source.place is not None:
            self.sequences.prune(target, source.n)
            self.book.cut(target, slot.cells(source.n))
            return self._restored(target, source.place)
        self._cut(target, source, slot)
        return target

    def _restored(self, target: int, place: Saved) -> int:
        if not self.sequences.restore(target, place.data, whole=False):
            self.sequences.remove(target)
            self.book.remove(target)
        return target

    def copy_for_sample(self, slot: Slot) -> int:
        """Another sequence with all that `slot` has in memory; empty if that cannot be."""
        return self._copied(Source(slot.fed, slot.sequence), slot)

    # --- ending --------------------------------------------------------------------------

    def remember_place(self, slot: Slot) -> None:
        """Keep what is special to where `slot` is now."""
        assert slot.sequence is not None
        tokens = slot.tokens[: slot.fed]
        if self.store.has(tokens, slot.key, whole=False):
            return
        if self.store.takes(self.sequences.saved_size(slot.sequence, whole=False)):
            data = self.sequences.save(slot.sequence, whole=False)
            self.store.add(Saved(tokens, slot.key, data, whole=False, wide=slot.wide))

    def finish(self, slot: Slot) -> None:
        """`slot` needs its sequence no more: hold it for others, or free it."""
        if slot.sequence is None:
            return
        sequence, slot.sequence = slot.sequence, None
        # Right behind an image of M-RoPE a state cannot tell where it is.
        unclear = slot.wide and self.sequences.kind != "attention"
        cut_off = unclear and self.sequences.length(sequence) != slot.fed
        if not slot.job.request.cache_prompt or slot.fed < _MIN_SHARED or cut_off:
            self.release(sequence)
            return
        tokens = slot.tokens[: slot.fed]
        for held in list(self._held.values()):
            n = len(held.tokens)
            if held.key == slot.key and common_length(held.tokens, tokens, n) == n:
                self._drop(held)  # all of it is in this one
        if self._has_shelf:
            sequence = self._shelved(sequence, slot)
        self._held[sequence] = Held(sequence, tokens, slot.key, slot.wide)
        self._trim()

    def _shelved(self, sequence: int, slot: Slot) -> int:
        """Move a sequence to where it needs none of those that compute."""
        if not self._shelf:
            self.evict()
        place = self._shelf.pop()
        self.sequences.copy(sequence, place, slot.fed)
        self.book.share(sequence, place, slot.cells(slot.fed))
        self.release(sequence)
        return place

    def forget(self, slot: Slot) -> None:
        """Empty the sequence of `slot`, which will compute its tokens again."""
        if slot.sequence is not None:
            self.release(slot.sequence)
        slot.sequence, slot.fed, slot.leader = None, 0, None

    def clear(self) -> None:
        """Forget everything that is kept."""
        for held in list(self._held.values()):
            self._drop(held)
        self.store.clear()
