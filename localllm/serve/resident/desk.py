"""Models for requests, from the event loop: nothing here makes the loop wait."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from localllm.closing import Closing
from localllm.engine.scheduler import Load, Loaded, ModelPool
from localllm.engine.scheduler.pool import Lease
from localllm.errors import LocalLLMError
from localllm.library.presets import Preset
from localllm.registry import Model
from localllm.serve.resident.catalog import Catalog, Served
from localllm.serve.resident.planner import ResidentPlanner
from localllm.serve.resident.resident import Resident

T = TypeVar("T")

# Rendering, tokenizing and making samplers, a request each; loads have threads of their own.
_WORKERS = 8


@dataclass(frozen=True)
class Busyness:
    """A resident model now. `load` is None for one that only embeds."""

    name: str
    model: Model
    resident: Resident
    loaded: Loaded
    load: Load | None


@dataclass(frozen=True)
class InUse:
    """A model that a request may use. `load_s` is what it waited for it to be loaded."""

    served: Served
    resident: Resident
    load_s: float


class Desk(Closing):
    """Hands out residents. Loads happen once, however many ask, on a thread of their own: those
    who wait for one model are in nobody else's way."""

    def __init__(
        self, catalog: Catalog, planner: ResidentPlanner, pool: ModelPool[Resident]
    ) -> None:
        self.catalog = catalog
        self.pool = pool
        self._planner = planner
        self._known: dict[str, tuple[Served, weakref.ref[Resident]]] = {}
        self._loads: dict[str, asyncio.Future[None]] = {}
        self._workers = ThreadPoolExecutor(_WORKERS, "localllm-request")
        self._loaders = ThreadPoolExecutor(64, "localllm-load")

    async def work(self, function: Callable[[], T]) -> T:
        """Run what would hold up the loop on a worker."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, function)

    async def computed(self, function: Callable[[], T]) -> T:
        """Run what takes long and gives up by itself when told to; waits until it has ended, so
        that nothing it uses is taken from under it."""
        work = asyncio.get_running_loop().run_in_executor(self._loaders, function)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            work.exception()  # looked at: nobody wants it
            raise

    @asynccontextmanager
    async def use(self, name: str, keep_alive_s: float | None = None) -> AsyncIterator[InUse]:
        """The model `name` for as long as the block runs; loaded first if need be.

        Raises ModelNotFound, Busy, DoesNotFit and what loading raises.
        """
        served = await self.work(lambda: self.catalog.find(name))
        async with self._held(served, keep_alive_s) as found:
            yield found

    @asynccontextmanager
    async def hold(self, served: Served) -> AsyncIterator[InUse]:
        """The same for a model that was found already."""
        async with self._held(served, None) as found:
            yield found

    @asynccontextmanager
    async def _held(self, served: Served, keep_alive_s: float | None) -> AsyncIterator[InUse]:
        begun = time.perf_counter()
        lease = await self._long_enough(served, keep_alive_s)
        load_s = time.perf_counter() - begun
        self._known[served.key] = served, weakref.ref(lease.resident)
        try:
            yield InUse(served, lease.resident, load_s)
        finally:
            lease.release()

    async def _long_enough(self, served: Served, keep_alive_s: float | None) -> Lease[Resident]:
        """Names of the same weights may want contexts of other lengths (num_ctx): a resident whose
        is too short for this one is loaded anew, if nobody else uses it."""
        n_ctx = Preset.of(served.model).n_ctx
        self._planner.know(served.key, served.model, n_ctx)
        lease = await self._lease(served.key, keep_alive_s)
        if self._planner.too_short(lease.resident, n_ctx):
            lease.release()
            await self.work(lambda: self.pool.unload(served.key))
            self._planner.know(served.key, served.model, n_ctx)
            lease = await self._lease(served.key, keep_alive_s)
        return lease

    async def _lease(self, key: str, keep_alive_s: float | None) -> Lease[Resident]:
        while True:
            loading = self._loads.get(key)
            if loading is not None:
                await asyncio.shield(loading)
                continue
            if key in self._resident():
                # On a worker: it may have been unloaded this very moment.
                return await self._leased(self._workers, key, keep_alive_s)
            loading = self._loads[key] = asyncio.get_running_loop().create_future()
            try:
                lease = await self._leased(self._loaders, key, keep_alive_s)
            except LocalLLMError as error:  # for all who wait for this load
                loading.set_exception(error)
                loading.exception()  # nobody may be waiting
                raise
            else:
                return lease
            finally:
                del self._loads[key]
                if not loading.done():
                    loading.set_result(None)

    async def _leased(
        self, threads: ThreadPoolExecutor, key: str, keep_alive_s: float | None
    ) -> Lease[Resident]:
        """A lease that arrives after its request was given up is given back."""
        loop = asyncio.get_running_loop()
        work = threads.submit(self.pool.lease, key, keep_alive_s=keep_alive_s)
        try:
            return await asyncio.wrap_future(work, loop=loop)
        except asyncio.CancelledError:
            work.add_done_callback(_give_back)
            raise

    def _resident(self) -> set[str]:
        return {one.name for one in self.pool.loaded()}

    def busy(self) -> tuple[Busyness, ...]:
        """What is in memory and how busy it is, the latest used first."""
        found = []
        for one in self.pool.loaded():
            served = self._known.get(one.name)
            if served is None or (resident := served[1]()) is None:
                continue
            generator = resident.generator
            load = generator.scheduler.load if generator is not None else None
            found.append(Busyness(served[0].name, served[0].model, resident, one, load))
        return tuple(found)

    def unload(self, name: str) -> bool:
        """Take a model out of memory, as soon as nobody uses it; whether it is gone."""
        return self.pool.unload(self.catalog.find(name).key, later=True)

    def close(self) -> None:
        """Unload everything; who waits is told."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._loaders.shutdown(wait=False, cancel_futures=True)
        self.pool.close()


def _give_back(work: object) -> None:
    from concurrent.futures import Future

    assert isinstance(work, Future)
    if not work.cancelled() and work.exception() is None:
        work.result().release()
