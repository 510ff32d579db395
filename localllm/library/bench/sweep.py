"""Every case of one model, planned, measured and kept one after the other.

A sweep never dies of a row: what does not fit by its plan, crashes, runs out of memory or of
time is a row with a failure, and the next is measured. Each row is in the registry before the
next begins, so that a killed sweep is taken up again where it was.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from localllm.errors import (
    DiskFull,
    EngineError,
    HomeUnwritable,
    LocalLLMError,
    RegistryBroken,
)
from localllm.library.bench.case import BenchTest, Case, Setup
from localllm.library.bench.largest import FIT, largest_ubatch
from localllm.library.bench.measuring.failures import failure_of
from localllm.library.bench.measuring.measure import DevicePeak, Method, Order
from localllm.library.bench.measuring.pace import WHOLE, Pace
from localllm.library.bench.measuring.workers import ChildWorker, HereWorker, RowFailed, Worker
from localllm.library.bench.outcome import Subject, failed_row, measured_row
from localllm.library.bench.record import SCHEMA, BenchRow, BenchRun, Failure, Machine
from localllm.library.bench.restore import run_from
from localllm.registry import Model, Registry
from localllm.ui import Progress

if TYPE_CHECKING:
    from localllm.formats.gguf import GGUFModel
    from localllm.placement import Plan, PlanOptions, Target

Tell = Callable[[str], None]


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep is run. `isolate` measures in a child process, which may crash; `timeout_s`
    limits a row; `force` tries what does not fit by its plan; `resume` goes on with the newest
    incomplete run of the same sweep; `command` and `tag` are kept with the run."""

    method: Method = field(default_factory=Method)
    isolate: bool = True
    timeout_s: float | None = None
    require_gpu: bool = False
    force: bool = False
    resume: bool = False
    tag: str | None = None
    command: str = ""
    verbose: bool = False


def plan_options(setup: Setup, test: BenchTest) -> PlanOptions:
    """What `test` under `setup` needs planned: a context just as long as it is."""
    from localllm.placement import PlanOptions

    return PlanOptions(
        n_ctx=test.n_ctx,
        type_k=setup.type_k,
        type_v=setup.type_v,
        n_batch=setup.n_batch,
        n_ubatch=setup.n_ubatch,
        flash_attn=setup.flash_attn,
        n_gpu_layers=setup.n_gpu_layers,
        n_cpu_moe=setup.n_cpu_moe,
        split_mode=setup.split_mode,
        main_gpu=setup.main_gpu,
        tensor_split=setup.tensor_split,
        no_kv_offload=setup.no_kv_offload,
        mmap=setup.mmap,
    )


def sweep_digest(
    model: Model, cases: Sequence[Case], method: Method, machine: Machine | None, build: str
) -> str:
    """Names a sweep: the same model, tests, method, machine and llama.cpp give the same text."""
    weights = [[f.name, f.size_bytes, f.sha256] for f in model.weights]
    what = [
        model.name,
        [*weights, model.digest] if model.attached else weights,
        [asdict(case) for case in cases],
        asdict(method),
        machine.fingerprint if machine else None,
        build,
    ]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


def whole_run(registry: Registry, model: Model, sweep: str) -> BenchRun | None:
    """The newest whole run of the sweep with this digest that is kept for `model`."""
    for kept in registry.measurements(model, "bench"):
        if kept.data.get("sweep") == sweep and kept.data.get("complete"):
            return replace(run_from(kept.data, origin=f"run {kept.id}"), id=kept.id)
    return None


class Sweep:
    """One model's cases on their way. `run` is the result so far."""

    def __init__(
        self,
        subject: Subject,
        header: GGUFModel,
        cases: Sequence[Case],
        options: SweepOptions,
        registry: Registry,
        target: Target,
        machine: Machine | None,
        versions: dict[str, str],
        peaks: tuple[DevicePeak, ...],
        warn: Tell,
    ) -> None:
        self.subject, self.header, self.cases, self.options = subject, header, cases, options
        self.registry, self.target, self.peaks, self.warn = registry, target, peaks, warn
        self.errors: list[LocalLLMError] = []  # of rows that were not tried
        self._plans: dict[PlanOptions, Plan] = {}
        self._keeps = subject.model.id is not None
        model = subject.model
        self.run = BenchRun(
            schema=SCHEMA,
            id=None,
            model=model.name,
            sha256=subject.sha256,
            tag=options.tag,
            started_at=time.time(),
            complete=False,
            sweep=sweep_digest(model, cases, options.method, machine, subject.build_commit),
            command=options.command,
            machine=machine,
            versions=versions,
            rows=(),
        )

    def resume(self) -> bool:
        """Take over the rows of the newest run of this sweep, if it was not finished."""
        model = self.subject.model
        for kept in self.registry.measurements(model, "bench"):
            if kept.data.get("sweep") != self.run.sweep:
                continue
            found = run_from(kept.data, origin=f"run {kept.id}")
            if found.complete:
                return False
            tag = self.options.tag or found.tag
            self.run = replace(found, id=kept.id, tag=tag)
            return True
        return False

    def measure(self, progress: Progress) -> BenchRun:
        """Measure the cases that are left. Raises what concerns the model as a whole (DamagedFile,
        FileGone), or the run, and KeyboardInterrupt: `run` then has what was finished."""
        left = self.cases[len(self.run.rows) :]
        model = self.subject.model.name
        worker = self.worker()
        method = self.options.method
        try:
            with progress.steps(f"bench {model}", WHOLE) as advance:
                pace = Pace(left, method.repetitions + method.warm_up, advance)
                for case in left:
                    number = f"{len(self.run.rows) + 1}/{len(self.cases)}"
                    runs = None if method.stable else method.repetitions + method.warm_up
                    with progress.steps(f"{case.test.name} ({number})", runs) as sampled:
                        row = self._row(case, worker, progress, pace, sampled)
                    pace.finished()
                    self.keep(replace(self.run, rows=(*self.run.rows, row)))
        finally:
            worker.close()
        return self.run

    def keep(self, run: BenchRun) -> None:
        """Write `run` to the registry; where that is not possible say so, once, and go on."""
        self.run = run
        if not self._keeps:
            return
        try:
            if run.id is None:
                number = self.registry.record(self.subject.model, "bench", asdict(run))
                self.run = run = replace(run, id=number)
            self.registry.revise(number if run.id is None else run.id, asdict(run))
        except (HomeUnwritable, DiskFull, RegistryBroken) as error:
            self._keeps = False
            self.warn(f"the figures are not kept: {error.message}")

    def worker(self) -> Worker:
        """Who measures. Close it afterwards."""
        if self.options.isolate:
            return ChildWorker(self.options.timeout_s, verbose=self.options.verbose)
        return HereWorker(self.options.timeout_s)

    def _row(
        self,
        case: Case,
        worker: Worker,
        progress: Progress,
        pace: Pace,
        sampled: Callable[[int], None],
    ) -> BenchRow:
        plan: Plan | None = None
        try:
            case = self.fitted(case)
            plan = self.plan(case)
            self.check(plan)
        except LocalLLMError as error:
            failure = failure_of(error)
            if failure is None:
                raise
            self.errors.append(error)
            return failed_row(self.subject, case, plan, failure)
        order = Order(
            path=str(self.subject.model.path),
            plan=plan,
            n_threads=case.setup.n_threads,
            test=case.test,
            method=self.options.method,
            peaks=self.peaks if case.test.n_gen and not case.test.n_prompt else (),
            adapters=self.subject.adapters,
        )

        def one(ns: int) -> None:
            loading.close()
            sampled(1)
            pace.sampled(ns)

        loading = _Loading(self.subject.model, progress)
        try:
            measured = worker.measure(order, loading.advance, one)
        except RowFailed as failed:
            return failed_row(self.subject, case, plan, failed.failure)
        finally:
            loading.close()
        return measured_row(self.subject, case, plan, measured)

    def fitted(self, case: Case) -> Case:
        """The case with the largest micro-batch that fits, where it asks for that."""
        setup = case.setup
        if setup.n_ubatch != FIT:
            return case

        def plan(n_ubatch: int) -> Plan:
            return self.plan(replace(case, setup=replace(setup, n_ubatch=n_ubatch)))

        found = largest_ubatch(plan, setup.n_batch)
        return replace(case, setup=replace(setup, n_ubatch=found))

    def plan(self, case: Case) -> Plan:
        """Where the case's model and cache go."""
        return self.planned(plan_options(case.setup, case.test))

    def planned(self, options: PlanOptions) -> Plan:
        """With llama.cpp's own figures (0.5 s for each that differs); by arithmetic where its
        dry run fails, which the real run will tell."""
        from localllm.placement import plan_for, settled_plan

        if options not in self._plans:
            path = self.subject.model.path
            try:
                plan = settled_plan(self.header, path, self.target, options, exact=True)
            except EngineError:
                plan = plan_for(self.header, self.target, options)
            self._plans[options] = plan
            if plan.unplanned:
                self.warn(f"memory is not planned: {plan.unplanned}")
        return self._plans[options]

    def check(self, plan: Plan) -> None:
        """Raise DoesNotFit or GpuRequired where `plan` is not to be tried."""
        from localllm.placement import does_not_fit
        from localllm.placement.opening import check_gpu

        path = self.subject.model.path
        if self.options.require_gpu:
            check_gpu(path, plan, self.target)
        if not plan.runs and not self.options.force:
            raise does_not_fit(path.name, plan)


class _Loading:
    """A meter that is there while the model is loaded, which is not for every row."""

    def __init__(self, model: Model, progress: Progress) -> None:
        self._model, self._progress = model, progress
        self._meter = ExitStack()
        self._advance: Callable[[int], None] | None = None

    def advance(self, size: int) -> None:
        if self._advance is None:
            meter = self._progress.bytes(f"load {self._model.name}", self._model.size_bytes)
            self._advance = self._meter.enter_context(meter)
        self._advance(size)

    def close(self) -> None:
        self._meter.close()
        self._advance = None


def failures(rows: Sequence[BenchRow]) -> list[tuple[BenchRow, Failure]]:
    """The rows without figures, and why."""
    return [(row, row.failure) for row in rows if row.failure is not None]
