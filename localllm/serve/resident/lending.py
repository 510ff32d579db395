"""The models that this server holds, lent to routers for one answer each."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from localllm.library.lending import Lent
from localllm.library.presets import Preset
from localllm.registry import Model
from localllm.serve.resident.catalog import Served, served_as
from localllm.serve.resident.desk import Desk, InUse


class DeskLender:
    """A library.lending.Lender for threads beside the event loop."""

    def __init__(self, desk: Desk, loop: asyncio.AbstractEventLoop) -> None:
        self._desk, self._loop = desk, loop

    def lend(self, model: Model, adapters: tuple[tuple[Path, float], ...]) -> Lent:
        served = replace(served_as(model.name, model), adapters=adapters)
        work = asyncio.run_coroutine_threadsafe(self._entered(served), self._loop)
        use, stack = work.result()

        def release() -> None:
            if not self._loop.is_closed():
                asyncio.run_coroutine_threadsafe(stack.aclose(), self._loop)

        try:
            return self._lent(served, use, release)
        except BaseException:
            release()
            raise

    def _lent(self, served: Served, use: InUse, release: object) -> Lent:
        resident, model = use.resident, served.model
        generator = resident.generates(served.name)
        preset = Preset.of(model, has_template=not generator.template.is_plain)
        attached = resident.adapters(served.adapters) if served.adapters else None
        sees = bool(model.with_role("mmproj"))
        return Lent(
            model, generator, resident.template(preset.template), preset,
            min(resident.n_ctx, preset.n_ctx or resident.n_ctx), attached,
            resident.opened.model.metadata(),
            (lambda: resident.vision(served.name)) if sees else None, release,  # type: ignore[arg-type]
        )  # fmt: skip

    async def _entered(self, served: Served) -> tuple[InUse, AsyncExitStack]:
        stack = AsyncExitStack()
        use = await stack.enter_async_context(self._desk.hold(served))
        return use, stack

    def close(self) -> None:
        """What is lent is the desk's."""
