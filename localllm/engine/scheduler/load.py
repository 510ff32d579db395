"""How busy a scheduler is, and what it did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counters:
    """Since the loop began."""

    steps: int = 0
    prompt_tokens: int = 0  # computed
    cached_tokens: int = 0  # not computed, since a sequence held them
    completion_tokens: int = 0
    preemptions: int = 0
    finished: int = 0  # requests


@dataclass(frozen=True)
class Load:
    """How busy a scheduler is. Sums are since it began."""

    n_slots: int
    n_running: int
    n_waiting: int
    n_held: int  # sequences kept for reuse
    cells_used: int
    cells: int
    saved_bytes: int  # of sequences and places in main memory
    counters: Counters
