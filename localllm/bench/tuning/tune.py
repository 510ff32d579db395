"""`bench --auto`: search the fastest settings for a model on this machine, and keep them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from localllm.bench.tuning.auto import Search, Timer, search
from localllm.bench.tuning.space import Cores, Tuning, axes
from localllm.errors import DoesNotFit, EngineError, LocalLLMError
from localllm.hardware import Cpu
from localllm.library.bench.case import BenchTest, Case, Setup
from localllm.library.bench.measuring.measure import Method, Order
from localllm.library.bench.measuring.workers import RowFailed, Worker
from localllm.library.bench.sweep import Sweep
from localllm.library.defaults import LoadDefaults, forget_defaults, keep_defaults
from localllm.registry import Registry
from localllm.ui import Progress

KV_TYPES = ("f16", "q8_0")
_ONCE = Method(repetitions=1)


@dataclass(frozen=True)
class Tuned:
    """What the search found for `model`. `kept`: chat and serve use it from now on, on machines
    of this `fingerprint`; where the defaults stood their ground, they are what is used."""

    model: str
    fingerprint: str
    search: Search
    kept: bool
    id: int | None  # of the measurement in the registry


def tune(
    sweep: Sweep,
    cpu: Cpu,
    registry: Registry,
    progress: Progress,
    *,
    budget_s: float,
    kv_types: Sequence[str] = KV_TYPES,
) -> Tuned:
    """Search for `sweep`'s model within `budget_s` and keep the winner, if it is one.

    Every run is in a child process, as a sweep's rows are. Raises DoesNotFit or EngineError
    where not even the defaults run, and what concerns the file.
    """
    machine = sweep.run.machine
    assert machine is not None  # only imports have none
    model = sweep.subject.model
    setup = Setup(n_threads=cpu.threads)
    n_layers = sweep.header.arch_u32("block_count", 0) + 1
    space = axes(
        Cores(cpu.usable_logical, cpu.usable_physical or cpu.usable_logical,
              cpu.performance_cores),
        n_layers,
        gpus=bool(sweep.target.gpus),
        experts=bool(sweep.header.arch_u32("expert_count", 0)),
        kv_types=kv_types,
    )  # fmt: skip
    with _timed(sweep) as timer, progress.steps(f"tune {model.name}", None) as advance:
        found = search(
            timer.seconds, Tuning(setup, cpu.threads), space, budget_s=budget_s,
            advance=lambda said: advance(1, said),
        )  # fmt: skip
    if found is None:
        raise timer.problem or EngineError(f"{model.name} does not run with its defaults")
    number = None
    if model.id is not None:
        number = registry.record(
            model, "auto", {"fingerprint": machine.fingerprint} | asdict(found)
        )
        if found.better:
            keep_defaults(registry, model, machine.fingerprint, _defaults(found))
        else:
            forget_defaults(registry, model, machine.fingerprint)
    kept = found.better and model.id is not None
    return Tuned(model.name, machine.fingerprint, found, kept, number)


def _defaults(found: Search) -> LoadDefaults:
    setup = found.winner.setup
    return LoadDefaults(
        n_threads=setup.n_threads,
        n_threads_batch=found.winner.n_threads_batch,
        n_batch=setup.n_batch,
        n_ubatch=setup.n_ubatch,
        flash_attn=setup.flash_attn,
        type_k=setup.type_k,
        type_v=setup.type_v,
        n_gpu_layers=setup.n_gpu_layers,
        n_cpu_moe=setup.n_cpu_moe,
        pp_speedup=found.pp.speedup,
        tg_speedup=found.tg.speedup,
        found_at=time.time(),
    )


@contextmanager
def _timed(sweep: Sweep) -> Iterator[_Stopwatch]:
    worker = sweep.worker()
    try:
        yield _Stopwatch(sweep, worker)
    finally:
        worker.close()


class _Stopwatch:
    """Runs one test once and says how long it took. `problem` is why the last one did not."""

    def __init__(self, sweep: Sweep, worker: Worker) -> None:
        self._sweep, self._worker = sweep, worker
        self.problem: LocalLLMError | None = None
        self.seconds: Timer = self._seconds

    def _seconds(self, setup: Setup, test: BenchTest) -> float | None:
        nothing: Callable[[int], None] = lambda n: None  # noqa: E731
        case = Case(setup, test)
        try:
            plan = self._sweep.plan(case)
            self._sweep.check(plan)
        except (EngineError, DoesNotFit) as error:
            self.problem = error
            return None
        subject = self._sweep.subject
        order = Order(str(subject.model.path), plan, setup.n_threads, test, _ONCE,
                      adapters=subject.adapters)  # fmt: skip
        try:
            (took_ns,) = self._worker.measure(order, nothing, nothing).samples_ns
        except RowFailed as failed:
            memory = failed.failure.kind in ("does_not_fit", "out_of_memory")
            kind = DoesNotFit if memory else EngineError
            self.problem = kind(failed.failure.message)
            return None
        return took_ns / 1e9
