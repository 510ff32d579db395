"""Measuring quantizations: quality against the source, and speed, by `quality` and `bench`.

    measurer = Measurer(base, registry, progress, MeasureOptions(), warn=sink.warn)
    row = measurer.measure(model, "made", type="Q4_K_M")

Figures go to the registry as those of `localllm quality` and `localllm bench` do, and what either
of them measured before under the same conditions is taken from there.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from localllm import config
from localllm.engine.build import build_info
from localllm.engine.quality.interval import Estimate
from localllm.errors import (
    DamagedFile,
    DoesNotFit,
    EngineError,
    Interrupted,
    LocalLLMError,
    UsageProblem,
)
from localllm.formats.gguf import read_model
from localllm.library.bench.bench import Extras, finish, sweep_of
from localllm.library.bench.case import BenchTest, Case, Setup
from localllm.library.bench.conditions.machine import this_machine_record
from localllm.library.bench.measuring.measure import Method
from localllm.library.bench.record import BenchRun, Machine
from localllm.library.bench.sweep import SweepOptions, failures, sweep_digest, whole_run
from localllm.library.derive import with_digest
from localllm.library.describe import loose_model
from localllm.library.quality.measure import batched, conditions, quality
from localllm.library.quality.record import Conditions, Quality
from localllm.library.quality.text import JudgedBy, read_texts
from localllm.placement import PlanOptions, does_not_fit, settled_plan, this_machine
from localllm.quantize.measured.record import (
    N_GEN,
    N_PROMPT,
    Measured,
    Role,
    row_of,
    with_quality,
    with_speed,
)
from localllm.quantize.source import Source
from localllm.registry import Model, Registry
from localllm.ui import Progress


@dataclass(frozen=True)
class MeasureOptions:
    """`texts` empty: the built-in evaluation text. `chunks` None: all of it, in contexts of
    `n_ctx` tokens. `repetitions` are of each speed test. `again` measures anew what is known."""

    texts: tuple[Path, ...] = ()
    chunks: int | None = None
    n_ctx: int = 512
    repetitions: int = 5
    again: bool = False

    def __post_init__(self) -> None:
        if self.chunks is not None and self.chunks < 1:
            raise UsageProblem("at least one context is needed", "--chunks 40")


@dataclass
class Measurer:
    """Measures models against `base`, the GGUF that they were made from.

    `cache` is a file for the base's figures, so that it is computed once for all models (see
    `quality --base-cache`). Where the base does not fit in memory `base_problem` says so, and
    models are measured without it: perplexity and speed alone.
    """

    base: Model
    registry: Registry
    progress: Progress
    options: MeasureOptions
    warn: Callable[[str], None]
    cache: Path | None = None
    base_problem: DoesNotFit | None = field(init=False)
    text: JudgedBy = field(init=False)
    source_perplexity: Estimate | None = field(init=False, default=None)
    problems: list[LocalLLMError] = field(init=False, default_factory=list)  # of models so far
    _advised: set[str] = field(init=False, default_factory=set)
    _plan: PlanOptions = field(init=False)
    _threads: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.base = with_digest(self.base, self.progress)
        self.text = read_texts(self.options.texts)
        self._plan = batched(PlanOptions(n_ctx=self.options.n_ctx))
        self._threads = config.load().threads
        self.base_problem = self._does_not_fit()
        if self.base_problem:
            self.warn(f"no divergence from {self.base.name}: {self.base_problem.message}")

    def conditions(self) -> Conditions:
        """What the figures depend on beside the models."""
        base = None if self.base_problem else self.base
        return conditions(base, self.text, self._plan, self.options.chunks, self.progress)

    def measure(self, model: Model, role: Role, type_: str | None) -> Measured:
        """Quality and speed of `model`. What fails stands in the row's `failures`.

        Raises Interrupted, KeyboardInterrupt, and UsageProblem of the text or the options.
        """
        found = row_of(model, role, type_)
        problems: list[str] = []
        try:
            found = with_quality(found, self._quality(model))
        except (Interrupted, UsageProblem):
            raise
        except LocalLLMError as error:
            self.problems.append(error)
            problems.append(f"quality: {error.message}")
        return self._with_speed(found, model, problems)

    def source(self) -> Measured:
        """The source's own row: its perplexity is known from comparing others with it."""
        found = row_of(self.base, "source", self.base.file_type)
        return self._with_speed(replace(found, perplexity=self.source_perplexity), self.base, [])

    def cases(self) -> tuple[Case, ...]:
        """The speed tests: `localllm bench` without options measures the same."""
        setup = Setup(n_threads=self._threads or 0)
        return (Case(setup, BenchTest(N_PROMPT, 0)), Case(setup, BenchTest(0, N_GEN)))

    @cached_property
    def machine(self) -> Machine:
        """What speeds may be compared across."""
        return this_machine_record()

    def sweep_digest(self, model: Model) -> str:
        """What a run of the speed tests of `model` is kept under."""
        build = build_info().commit
        return sweep_digest(model, self.cases(), self._method, self.machine, build)

    @property
    def _method(self) -> Method:
        return Method(self.options.repetitions)

    def _does_not_fit(self) -> DoesNotFit | None:
        header = read_model([file.path for file in self.base.weights])
        try:
            plan = settled_plan(header, self.base.path, this_machine(), self._plan)
        except (DamagedFile, EngineError):
            return None  # of a kind that is not planned: loading it will tell
        return None if plan.runs else does_not_fit(self.base.path.name, plan)

    def _quality(self, model: Model) -> Quality:
        try:
            return self._judge(model)
        except OSError as error:
            if self.cache is None:
                raise
            why = error.strerror or error
            self.warn(f"the source's figures cannot be kept ({why}): computed for each model")
            self.cache = None
            return self._judge(model)

    def _judge(self, model: Model) -> Quality:
        base = None if self.base_problem else self.base
        outcome = quality(
            [model], base, self.text, self.registry, self.progress, plan=self._plan,
            chunks=self.options.chunks, threads=self._threads, again=self.options.again,
            base_cache=self.cache if base else None,
        )  # fmt: skip
        for advice in outcome.advice:
            self._advise(advice.message + (f"; try: {advice.hint}" if advice.hint else ""))
        if outcome.error is not None:
            raise outcome.error
        (row,) = outcome.report.rows
        if row.figures.divergence is not None:
            self.source_perplexity = row.figures.divergence.perplexity.base_perplexity
        return row

    def _with_speed(self, found: Measured, model: Model, problems: list[str]) -> Measured:
        try:
            run, reused = self._speed(model)
        except Interrupted:
            raise
        except LocalLLMError as error:
            self.problems.append(error)
            problems.append(f"speed: {error.message}")
        else:
            problems += [f"{row.test}: {failure.message}" for row, failure in failures(run.rows)]
            found = with_speed(found, run, reused)
        return replace(found, failures=tuple(dict.fromkeys(problems)))

    def _speed(self, model: Model) -> tuple[BenchRun, bool]:
        again = self.options.again
        if not again:
            kept = whole_run(self.registry, model, self.sweep_digest(model))
            if kept is not None and not failures(kept.rows):
                return kept, True
        command = shlex.join(["localllm", *sys.argv[1:]])
        options = SweepOptions(method=self._method, command=command)
        sweep = sweep_of(model, self.cases(), self.registry, options, self._advise)
        if not again:
            sweep.resume()
        return finish(sweep, self.progress, Extras(), self._advise), False

    def _advise(self, text: str) -> None:
        """Once: every model of a set would say the same."""
        if text not in self._advised:
            self._advised.add(text)
            self.warn(text)


def check_measurable(model: Model) -> None:
    """Raise UsageProblem for what has neither perplexity nor speed of its own."""
    if model.format == "mmproj":
        raise UsageProblem(f"{model.name} is a projector: there is nothing to measure of it alone")


def base_of(source: Source) -> Model:
    """The GGUF that was quantized: the source itself, or what it was converted to for this run."""
    if not source.parameters:
        return source.model
    return replace(loose_model(source.path), name=f"{source.model.name} (converted)")
