"""The sequences of one context: who has which, and what becomes of those that ended.

A sequence that ended stays in its cells ("held") while that slows nobody down, then in main
memory ("saved") while there is room. A request that begins like it, or like one that is still at
work, takes over or copies the beginning instead of computing it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from localllm.engine.context import Context
from localllm.engine.scheduler.prefix import Held, Saved, common_length
from localllm.engine.scheduler.room import MIN_COPIED, Holding, Room
from localllm.engine.scheduler.search import Found, Search, Source, leader_of
from localllm.engine.scheduler.slot import Slot

# Beginnings of fewer cells are computed anew: looking after them costs more.
_MIN_SHARED = 4
_MIN_MARKED = 256  # a prompt this long, or one with images, is remembered at its end
_MARK_APART = 32  # a place is marked if it lies so much further than what could be used


class SequenceMemory(Room):
    """What becomes of sequences, from the first token that is found computed to the last."""

    def __init__(self, context: Context, holding: Holding) -> None:
        super().__init__(context, holding)
        windowed = context.model.info.n_swa > 0 and not context.options.swa_full
        self._unshare = self.pooled and windowed
        copies = self._unshare or not self.sequences.unified
        self._least = MIN_COPIED if copies else _MIN_SHARED
        self._search = Search(self.sequences, self._held, self.store)

    # --- beginning -----------------------------------------------------------------------

    def place(self, slot: Slot, running: Iterable[Slot]) -> None:
        """Give `slot` a sequence with as much of its tokens as there is, or one to wait for."""
        limit = len(slot.tokens) - 1  # the last token's logits are what comes next
        source: Source | None = None
        if slot.job.request.cache_prompt and not slot.to_score:
            others = [other for other in running if other is not slot and other.key == slot.key]
            found = self._search.find(slot, others, limit)
            source = self._usable(found, slot)
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

    def _usable(self, found: Found, slot: Slot) -> Source | None:
        source = found.source
        if source is None:
            return None
        whole = source.held is not None and source.n == len(source.held.tokens)
        return source if slot.cells(source.n) >= self._least or whole else None

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
