"""Several models resident: opened on demand, the least recently used unloaded for another.

What fits is not decided here: a `Planner` from above, who knows files, devices and plans, is
asked, and opens.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from localllm.closing import Closing
from localllm.engine.scheduler.request import Busy, Stopped


class Resident(Protocol):
    """A loaded model, whatever it is made of. Called from several threads."""

    @property
    def idle(self) -> bool:
        """Nobody is being answered."""

    @property
    def alive(self) -> bool:
        """False once its engine has failed: it is loaded anew for the next who asks."""

    def close(self) -> None: ...


R_co = TypeVar("R_co", bound=Resident, covariant=True)
R = TypeVar("R", bound=Resident)


class Planner(Protocol[R_co]):
    """One load at a time, on the thread of the first who asked."""

    def fits(self, name: str, loaded: Sequence[str]) -> bool:
        """Whether `name` can be opened now, beside those that are loaded. Raises what `open`
        would raise where that is known before: no such model, or one that never fits."""

    def open(self, name: str) -> R_co:
        """Load it. What it raises goes to everyone who waits for this model."""


@dataclass(frozen=True)
class Loaded:
    """One resident model. `expires_s` None: it is in use, or kept until room is needed."""

    name: str
    load_s: float
    n_leases: int
    unused_s: float
    expires_s: float | None


class _Entry(Generic[R]):
    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: Future[R] = Future()
        self.load_s = 0.0
        self.n_leases = 0
        self.used_at = time.monotonic()
        self.keep_s: float | None = None

    def evictable(self) -> bool:
        return self.ready.done() and self.n_leases == 0 and self.ready.result().idle

    def expires_at(self) -> float | None:
        if not self.ready.done() or self.n_leases or self.keep_s in (None, math.inf):
            return None
        assert self.keep_s is not None
        return self.used_at + self.keep_s


def _wait_s(left_s: float) -> float:
    """Locks wait for no longer than TIMEOUT_MAX: there it would be an error."""
    return min(max(0.1, left_s), threading.TIMEOUT_MAX)


class Lease(Generic[R]):
    """The use of a resident; until `release` it is not unloaded."""

    def __init__(self, pool: ModelPool[R], entry: _Entry[R]) -> None:
        self._pool, self._entry, self._open = pool, entry, True
        self.resident: R = entry.ready.result()

    def release(self) -> None:
        """May be called twice."""
        if self._open:
            self._open = False
            self._pool._release(self._entry)

    def __enter__(self) -> R:
        return self.resident

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class ModelPool(Generic[R], Closing):
    """`lease(name)` gives a loaded model, loading it if need be. Safe from any thread.

    Unloaded are only models that nobody uses: when another needs their room, the least recently
    used first, or `keep_alive_s` after their last use (None: never for that reason).
    """

    def __init__(
        self, planner: Planner[R], *, keep_alive_s: float | None = 300.0, wait_s: float = 60.0
    ) -> None:
        """`wait_s` is how long a load waits for models in use to become free."""
        self._planner = planner
        self._keep_alive_s = keep_alive_s
        self._wait_s = wait_s
        self._changed = threading.Condition()
        self._loading = threading.Lock()
        self._entries: dict[str, _Entry[R]] = {}
        self._closed = False
        self._janitor = threading.Thread(target=self._expire, name="localllm-pool", daemon=True)
        self._janitor.start()

    def lease(self, name: str, *, keep_alive_s: float | None = None) -> Lease[R]:
        """The model `name`, in use until released. `keep_alive_s` replaces the pool's from now
        on for this model; math.inf keeps it until room is needed.

        Raises what the planner raises (to everyone who waits for the same load), Busy when all
        models that would have to go are in use for longer than `wait_s`, Stopped after `close`.
        """
        while True:
            with self._changed:
                if self._closed:
                    raise Stopped("the model pool is closed")
                entry = self._entries.get(name)
                first = entry is None
                if entry is None:
                    entry = self._entries[name] = _Entry(name)
                    entry.keep_s = self._keep_alive_s
                entry.n_leases += 1
                if keep_alive_s is not None:
                    entry.keep_s = keep_alive_s
            if first:
                self._load(entry)
            try:
                resident = entry.ready.result()  # raises what the load raised
            except BaseException:
                self._release(entry)
                raise
            if resident.alive:
                return Lease(self, entry)
            self._release(entry)
            self._drop(entry)

    def loaded(self) -> tuple[Loaded, ...]:
        """What is resident, the latest used first."""
        now = time.monotonic()
        with self._changed:
            entries = [one for one in self._entries.values() if one.ready.done()]
            entries.sort(key=lambda one: -one.used_at)
            return tuple(
                Loaded(
                    one.name,
                    one.load_s,
                    one.n_leases,
                    0.0 if one.n_leases else now - one.used_at,
                    None if (end := one.expires_at()) is None else max(0.0, end - now),
                )
                for one in entries
            )

    def unload(self, name: str, *, later: bool = False) -> bool:
        """Unload it now if nobody uses it, else, with `later`, when its users have left it;
        whether it is gone."""
        with self._changed:
            entry = self._entries.get(name)
            if entry is None:
                return True
            if not entry.evictable():
                if later:
                    entry.keep_s = 0.0
                    self._changed.notify_all()
                return False
            del self._entries[name]
        entry.ready.result().close()
        return True

    def close(self) -> None:
        """Unload everything, in use or not. May be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with self._loading:  # a load under way ends first
            entries, self._entries = list(self._entries.values()), {}
        for entry in entries:
            if entry.ready.done() and entry.ready.exception() is None:
                entry.ready.result().close()
        self._janitor.join()

    # --- loading and unloading -----------------------------------------------------------

    def _load(self, entry: _Entry[R]) -> None:
        begun = time.monotonic()
        with self._loading:
            try:
                self._make_room(entry.name)
                resident = self._planner.open(entry.name)
            except BaseException as error:  # noqa: BLE001 - to everyone who waits
                self._forget(entry)
                entry.ready.set_exception(error)
                return
            entry.load_s = time.monotonic() - begun
            with self._changed:
                entry.used_at = time.monotonic()
                entry.ready.set_result(resident)
                self._changed.notify_all()

    def _make_room(self, name: str) -> None:
        end = time.monotonic() + self._wait_s
        while not self._closed:
            with self._changed:
                others = [one for one in self._entries.values() if one.ready.done()]
            if self._planner.fits(name, [one.name for one in others]):
                return
            if not others:
                return  # nothing to unload: let `open` say why
            if not self._unload_oldest():
                with self._changed:
                    left = end - time.monotonic()
                    if left <= 0:
                        raise Busy(len(others), self._wait_s)
                    # Released, or only idle: a stream that ended tells nobody.
                    self._changed.wait(min(left, 0.1))
        raise Stopped("the model pool is closed")

    def _unload_oldest(self) -> bool:
        with self._changed:
            idle = [one for one in self._entries.values() if one.evictable()]
            if not idle:
                return False
            oldest = min(idle, key=lambda one: one.used_at)
            del self._entries[oldest.name]
        oldest.ready.result().close()
        return True

    def _drop(self, entry: _Entry[R]) -> None:
        """Unload one whose engine has failed, once its last user has left."""
        with self._changed:
            mine = self._entries.get(entry.name) is entry
            if mine:
                del self._entries[entry.name]
        if mine:
            entry.ready.result().close()

    def _forget(self, entry: _Entry[R]) -> None:
        with self._changed:
            if self._entries.get(entry.name) is entry:
                del self._entries[entry.name]
            self._changed.notify_all()

    def _release(self, entry: _Entry[R]) -> None:
        with self._changed:
            entry.n_leases -= 1
            entry.used_at = time.monotonic()
            self._changed.notify_all()

    def _expire(self) -> None:
        """The thread that unloads what was not used for long."""
        while True:
            with self._changed:
                if self._closed:
                    return
                now = time.monotonic()
                ends = [(e, one) for one in self._entries.values() if (e := one.expires_at())]
                late = [one for end, one in ends if end <= now and one.evictable()]
                for one in late:
                    del self._entries[one.name]
                if not late:
                    nearest = min((end for end, _ in ends), default=None)
                    # One that is past its time and not idle is looked at again soon.
                    self._changed.wait(None if nearest is None else _wait_s(nearest - now))
            for one in late:
                one.ready.result().close()
