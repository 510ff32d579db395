"""Who is at work, and who was put aside for want of room."""

from __future__ import annotations

from collections import deque

from localllm.engine.scheduler.slot import Slot


class Crowd:
    """Slots in order of admission: the youngest gives way first, the oldest goes on first."""

    def __init__(self) -> None:
        self.running: list[Slot] = []
        self.parked: deque[Slot] = deque()
        self._n_admitted = 0

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (*self.running, *self.parked)

    def join(self, slot: Slot) -> None:
        slot.order = self._n_admitted
        self._n_admitted += 1
        self.running.append(slot)

    def youngest(self) -> Slot | None:
        """Of those who have a sequence, where there is more than one."""
        inside = [slot for slot in self.running if slot.sequence is not None]
        return inside[-1] if len(inside) > 1 else None

    def park(self, slot: Slot) -> None:
        """Put one at work aside."""
        self.running.remove(slot)
        self.parked.appendleft(slot)
        self.parked = deque(sorted(self.parked, key=lambda one: one.order))

    def resume(self) -> None:
        """Let the first of those who were put aside go on."""
        self.running.append(self.parked.popleft())
        self.running.sort(key=lambda one: one.order)

    def leave(self, slot: Slot) -> None:
        if slot in self.running:
            self.running.remove(slot)
        else:
            self.parked.remove(slot)
