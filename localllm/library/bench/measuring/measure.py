"""Measuring rows in the process that holds the model: `child` runs this, or the program itself.

A model stays loaded while the rows' loading options are the same, every row has a context of
its own: llama-bench's method.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.closing import Closing
from localllm.engine.options import LoadOptions
from localllm.library.bench.case import BenchTest
from localllm.library.bench.conditions.bandwidth import Bandwidth
from localllm.library.bench.record import DeviceMemory, Evidence
from localllm.library.bench.stable import StableRule, next_step
from localllm.library.bench.statistics import mean
from localllm.placement.plan import Plan

if TYPE_CHECKING:
    from localllm.engine.adapter import LoraAdapter
    from localllm.engine.measure import BenchRunner, DepthState
    from localllm.engine.model import Model
    from localllm.placement import Opened, Placed

Loading = Callable[[int], None]
Sampled = Callable[[int], None]


@dataclass(frozen=True)
class Method:
    """How every row is measured. `priority` is llama.cpp's: -1 low to 3 realtime.

    `stable`: go on after `repetitions` until it says enough.
    """

    repetitions: int = 5
    warm_up: bool = True
    delay_s: float = 0.0
    priority: int = 0
    stable: StableRule | None = None


@dataclass(frozen=True)
class DevicePeak:
    """`bandwidth.Peak` of one device."""

    device: str
    bytes_s: int
    basis: str


@dataclass(frozen=True)
class Order:
    """One row to measure, everything decided. `n_threads` 0 is one a physical core; `adapters`
    are LoRA files to attach."""

    path: str
    plan: Plan
    n_threads: int
    test: BenchTest
    method: Method
    peaks: tuple[DevicePeak, ...] = ()
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What llama.cpp says of the model and where it put the layers."""

    model_type: str
    model_size: int
    model_n_params: int
    load_s: float
    n_layers: int
    n_layers_offloaded: int
    n_threads: int


@dataclass(frozen=True)
class Measured:
    """A row's samples and what was seen while they were taken."""

    test_time: str  # ISO 8601, UTC, when the test began
    samples_ns: tuple[int, ...]
    facts: Facts
    memory: tuple[DeviceMemory, ...]
    evidence: Evidence
    bandwidth: Bandwidth


class Bencher(Closing):
    """Keeps the model of the last row loaded. Close it, or use `with`."""

    def __init__(self) -> None:
        self._model: Model | None = None
        self._placed: Placed | None = None
        self._loaded: tuple[str, LoadOptions, tuple[str, ...]] | None = None
        self._adapters: list[LoraAdapter] = []
        self._state: DepthState | None = None

    def measure(self, order: Order, loading: Loading, sampled: Sampled) -> Measured:
        """Measure one row. `loading` gets bytes of the model newly read, `sampled` the
        nanoseconds of each sample, 0 for the warm-up.

        Raises what loading, making a context and computing raise.
        """
        from localllm.engine.adapter import attach
        from localllm.engine.context import Context
        from localllm.engine.measure import BenchRunner
        from localllm.engine.threadpool import attached
        from localllm.library.bench.conditions.memory import device_memory
        from localllm.placement import Opened

        test, method = order.test, order.method
        model, placed = self._load(order, loading)
        with Context(model, replace(order.plan.context, n_threads=order.n_threads)) as context:
            if self._adapters:
                attach(context, self._adapters)
            opened = Opened(model, context, order.plan, placed, ())
            memory = device_memory(opened)
            began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            time.sleep(method.delay_s)
            runner = BenchRunner(context, test.n_prompt, test.n_gen, test.n_depth, self._state)
            with attached(context, method.priority):
                if method.warm_up:
                    runner.warm_up()
                    sampled(0)
                samples, evidence = _samples(runner, opened, method, sampled)
            reads = _bandwidth(opened, order, rates(samples, test.n_tokens))
            return Measured(began, samples, _facts(opened), memory, evidence, reads)

    def _load(self, order: Order, loading: Loading) -> tuple[Model, Placed]:
        from localllm.engine import native
        from localllm.engine.adapter import LoraAdapter
        from localllm.engine.measure import DepthState
        from localllm.engine.model import Model
        from localllm.placement.opening import placed_by

        wanted = (order.path, order.plan.load, order.adapters)
        if self._model is not None and self._placed is not None and self._loaded == wanted:
            return self._model, self._placed
        self.close()  # first: two models would need twice the memory
        with native.capture() as log:
            self._model = Model.load(Path(order.path), order.plan.load, loading)
        self._adapters = [LoraAdapter(self._model, Path(path)) for path in order.adapters]
        self._placed = placed_by([line.text for line in log.lines])
        self._loaded = wanted
        self._state = DepthState()
        return self._model, self._placed

    def close(self) -> None:
        """Free the model."""
        if self._model is not None:
            self._model.close()
        self._model = self._placed = self._loaded = self._state = None
        self._adapters = []


def rates(samples_ns: Sequence[int], n_tokens: int) -> tuple[float, ...]:
    """Tokens a second of each sample."""
    return tuple(n_tokens * 1e9 / ns for ns in samples_ns)


def _samples(
    runner: BenchRunner, opened: Opened, method: Method, sampled: Sampled
) -> tuple[tuple[int, ...], Evidence]:
    from localllm.library.bench.conditions.evidence import observe_opened

    samples: list[int] = []
    n_tokens = runner.n_prompt + runner.n_gen
    begun = time.perf_counter()
    with observe_opened(opened) as seen:

        def take(n: int) -> None:
            for _ in range(n):
                runner.prepare()
                with seen.timed():
                    samples.append(runner.run())
                sampled(samples[-1])

        take(method.repetitions)
        while method.stable is not None:
            spent = time.perf_counter() - begun
            step = next_step(rates(samples, n_tokens), method.stable, spent)
            if not step.n_more:
                break
            take(step.n_more)
    evidence = seen.evidence(n_tokens * len(samples), rates(samples, n_tokens))
    return tuple(samples), evidence


def _bandwidth(opened: Opened, order: Order, rates_ts: Sequence[float]) -> Bandwidth:
    from localllm.library.bench.conditions.bandwidth import Peak, bandwidth

    peaks = {p.device: Peak(p.bytes_s, p.basis) for p in order.peaks}
    return bandwidth(opened, order.test, mean(rates_ts), peaks)


def _facts(opened: Opened) -> Facts:
    info = opened.model.info
    return Facts(
        model_type=info.description,
        model_size=info.size_bytes,
        model_n_params=info.n_params,
        load_s=opened.model.load_s,
        n_layers=opened.placed.n_layers,
        n_layers_offloaded=opened.placed.n_offloaded,
        n_threads=opened.context.n_threads,
    )
