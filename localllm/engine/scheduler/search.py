"""Where the beginning of a new request's tokens can be had without computing it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from localllm.engine.scheduler.prefix import Held, Saved, Store, common_length
from localllm.engine.scheduler.slot import Slot
from localllm.engine.sequences import Sequences
from localllm.engine.vision.prompt import whole_images

_MIN_FOLLOWED = 32  # cells; less is not worth waiting for another request's prompt


@dataclass(frozen=True)
class Source:
    """The first `n` tokens are in `sequence` (which `held` is, or a slot at work), or in `saved`
    whole. `place` then has to be put in, where it is given."""

    n: int
    sequence: int | None = None
    held: Held | None = None
    saved: Saved | None = None
    place: Saved | None = None


@dataclass(frozen=True)
class Found:
    """The best source, and how far any sequence goes the same way, usable or not."""

    source: Source | None
    furthest: int


class Search:
    """Over what is held, at work and saved."""

    def __init__(self, sequences: Sequences, held: Mapping[int, Held], store: Store) -> None:
        self._sequences = sequences
        self._held = held
        self._store = store
        # A state says nothing of the cells beside it, and a copied stream comes too late.
        self._grafts = sequences.unified or sequences.kind == "window"

    def find(self, slot: Slot, others: Sequence[Slot], limit: int) -> Found:
        """The longest usable beginning of at most `limit` tokens; cells before main memory."""
        best, furthest = Source(0), 0
        plain = self._sequences.kind == "attention"  # all that was computed can be used
        for source, tokens in self._live(slot, others):
            n = _common(slot, tokens, limit)
            furthest = max(furthest, n)
            assert source.sequence is not None
            if n > best.n and (plain or self._sequences.reaches(n, source.sequence)):
                best = Source(n, source.sequence, source.held)
        for saved in self._store:
            if saved.whole and saved.key == slot.key:
                n = _common(slot, saved.tokens, limit)
                furthest = max(furthest, n)
                if n > best.n and (self._sequences.kind == "attention" or n == len(saved.tokens)):
                    best = Source(n, saved=saved)
        if self._sequences.kind != "attention":
            best = self._by_place(slot, others, limit, best)
        return Found(best if best.n else None, furthest)

    def _live(self, slot: Slot, others: Sequence[Slot]) -> Iterator[tuple[Source, array[int]]]:
        for held in reversed(self._held.values()):  # type: ignore[call-overload]
            if held.key == slot.key:
                yield Source(0, held.sequence, held), held.tokens
        for other in others:
            if other.sequence is not None and other.fed:
                yield Source(0, other.sequence), other.tokens[: other.fed]

    def _by_place(self, slot: Slot, others: Sequence[Slot], limit: int, best: Source) -> Source:
        """A place that was saved, with a sequence that came by there."""
        places = [one for one in self._store if not one.whole and one.key == slot.key]
        for place in sorted(places, key=lambda one: -len(one.tokens)):
            n = len(place.tokens)
            if n <= best.n:
                break
            if n <= limit and common_length(slot.tokens, place.tokens, n) == n:
                found = self._passing(slot, others, n)
                if found is not None:
                    return Source(n, found.sequence, found.held, found.saved, place)
        return best

    def _passing(self, slot: Slot, others: Sequence[Slot], n: int) -> Source | None:
        """What holds the cells of the first `n` tokens."""
        unified, kind = self._sequences.unified, self._sequences.kind
        for source, tokens in self._live(slot, others):
            usable = unified or (source.held is not None and kind == "window")
            if usable and common_length(slot.tokens, tokens, n) == n:
                return source
        for saved in self._store:
            usable = saved.whole and saved.key == slot.key and kind == "window"
            if usable and common_length(slot.tokens, saved.tokens, n) == n:
                return Source(0, saved=saved)
        return None


def _common(slot: Slot, tokens: array[int], limit: int) -> int:
    """How many tokens of `slot`, at most `limit`, `tokens` begin with; no image in part."""
    n = common_length(slot.tokens, tokens, min(limit, len(tokens)))
    return n if slot.media is None else whole_images(slot.tokens, n)


def leader_of(slot: Slot, others: Sequence[Slot], limit: int, n: int) -> tuple[Slot, int] | None:
    """Whose prompt will soon hold much more of ours than the `n` tokens there are, and how much.

    Much is counted in cells: an image of M-RoPE has fewer places than many a text, and ten times
    the cells to compute.
    """
    best: tuple[Slot, int] | None = None
    most, enough = n, slot.cells(n) + _MIN_FOLLOWED
    for other in others:
        if other.order >= slot.order or other.remaining <= 1:
            continue
        shared = _common(slot, other.tokens, limit)
        if shared > max(most, other.fed) and slot.cells(shared) > enough:
            best, most = (other, shared), shared
    return best
