"""From the words of the command line to a ladder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from localllm.engine.ftypes import ftype
from localllm.errors import DoesNotFit, Interrupted, LocalLLMError, UsageProblem
from localllm.library.candidates import Memory
from localllm.library.conversion import made_before
from localllm.library.find import find_model
from localllm.library.quality.record import Conditions
from localllm.quantize.importance import Importance
from localllm.quantize.ladder.climb import Climb, free_bytes, needed_bytes
from localllm.quantize.ladder.ladder import (
    Judged,
    Ladder,
    LadderOptions,
    judged,
    nothing_fits,
    planned_rung,
)
from localllm.quantize.ladder.rungs import (
    DEFAULT_TYPES,
    LeftOut,
    PlannedRung,
    plan_rungs,
    sensible,
)
from localllm.quantize.measured.measurer import MeasureOptions, Measurer, base_of, check_measurable
from localllm.quantize.measured.record import Measured, row_of
from localllm.quantize.requests import Given, requests_for
from localllm.quantize.run import importance_of, source_for
from localllm.quantize.source import Source, hashed
from localllm.registry import Model, Registry
from localllm.ui import Sink

_UNWEIGHTED = ("f32", "f16", "bf16", "q8_0")  # llama.cpp makes these without looking at a matrix


@dataclass(frozen=True)
class Climbed:
    """`error`: Ctrl-C, or the first failure where no rung has any figures."""

    ladder: Ladder
    error: LocalLLMError | None


def climb(
    model: str,
    given: Given,
    options: LadderOptions,
    measuring: MeasureOptions,
    registry: Registry,
    sink: Sink,
    *,
    dry_run: bool = False,
) -> Climbed:
    """Make and measure `model` in each of the types given, or in a sensible set of them, and say
    which to take on this machine.

    Raises what concerns all rungs: UsageProblem (nothing can be made, safetensors without a
    GGUF), DoesNotFit (of the default set nothing runs here), DiskFull, DamagedFile.
    """
    found = _gguf(model, registry, sink)
    said = given.imatrix is not None
    given = _for_ladder(given)
    requests = requests_for(given)
    names = [one.recipe.type for one in requests]
    with source_for(found, names, registry, sink, dry_run) as opened:
        source = opened if dry_run else hashed(opened, sink.progress)
        weights = _importance(given, said, source, registry, sink, dry_run)
        requests = tuple(replace(one, importance=weights) for one in requests)
        memory = Memory(options.n_ctx)
        planned = plan_rungs(source, requests, memory, sink.progress)
        left_out: list[LeftOut] = []
        if set(names) == set(DEFAULT_TYPES):
            planned, left_out = _sensible(planned, source, memory)
        _check(planned)
        work = _Work(source, planned, left_out, weights, memory, options, registry, sink)
        return Climbed(work.dry(), None) if dry_run else work.climb(measuring)


def _gguf(name: str, registry: Registry, sink: Sink) -> Model:
    """The model, if there is a GGUF of it: every rung is compared with that."""
    model = find_model(name, registry)
    check_measurable(model)
    if model.format == "safetensors" and made_before(model, registry, sink.progress) is None:
        raise UsageProblem(
            f"a ladder is measured against a GGUF, and {model.name} has none yet",
            f"localllm convert {model.name}",
        )
    return model


def _for_ladder(given: Given) -> Given:
    """The types of the default set where none was given, and an importance matrix unless one
    was refused: among files of one size, those made with one are the better."""
    for option, value in (("--name", given.name), ("--plan", given.plan)):
        if value is not None:
            raise UsageProblem(f"{option} is for one model, and a ladder makes several")
    types = given.types or DEFAULT_TYPES
    counts = any(ftype(name).base.lower() not in _UNWEIGHTED for name in types)
    return replace(given, types=types, imatrix=given.imatrix or ("auto" if counts else None))


def _importance(
    given: Given, said: bool, source: Source, registry: Registry, sink: Sink, dry_run: bool
) -> Importance | None:
    """The importance matrix of all rungs. Where nobody asked for one, the ladder can do without."""
    try:
        return importance_of(given, source, registry, sink, dry_run=dry_run)
    except Interrupted:
        raise
    except LocalLLMError as error:
        if said:
            raise
        sink.warn(f"without an importance matrix: {error.message}")
        return None


def _sensible(
    planned: Sequence[PlannedRung], source: Source, memory: Memory
) -> tuple[list[PlannedRung], list[LeftOut]]:
    kept, left_out = sensible(planned, source.gguf.weights_bytes, memory.room)
    if kept:
        return kept, left_out
    if problem := next((one.problem for one in planned if one.problem is not None), None):
        raise problem
    raise DoesNotFit(
        f"{source.model.name}: no type of the default set makes sense here; "
        f"{left_out[-1].type}: {left_out[-1].why}",
        f"name the types: localllm quantize {source.model.name} --ladder Q4_K_M IQ3_XXS",
    )


def _check(planned: Sequence[PlannedRung]) -> None:
    """Raise the first problem where nothing can be made."""
    problems = [one.problem for one in planned if one.problem is not None]
    if problems and len(problems) == len(planned):
        raise problems[0]


@dataclass(frozen=True)
class _Work:
    source: Source
    planned: Sequence[PlannedRung]
    left_out: Sequence[LeftOut]
    weights: Importance | None
    memory: Memory
    options: LadderOptions
    registry: Registry
    sink: Sink

    def dry(self) -> Ladder:
        rungs = tuple(planned_rung(one) for one in self.planned)
        base = base_of(self.source)
        needed = needed_bytes(
            self.source, self.planned, self.options, self.registry, self.sink.progress,
            hash_parent=False,
        )  # fmt: skip
        nothing = nothing_fits(rungs, self.memory.room)
        row = row_of(base, "source", base.file_type)
        return self._ladder(row, Judged(rungs, "mean_kld", None, nothing), needed, complete=False)

    def climb(self, measuring: MeasureOptions) -> Climbed:
        sink, base = self.sink, base_of(self.source)
        measurer = Measurer(base, self.registry, sink.progress, measuring, sink.warn)
        job = Climb(self.source, self.planned, self.options, measurer, self.registry, sink)
        needed = job.needed_bytes
        source, others = job.run()
        found = judged(tuple(job.rungs), self.memory.room)
        ladder = self._ladder(
            source, found, needed, complete=len(job.rungs) == len(self.planned), siblings=others,
            conditions=measurer.conditions(),
        )  # fmt: skip
        return Climbed(ladder, job.error)

    def _ladder(
        self,
        source: Measured,
        found: Judged,
        needed_bytes: int,
        *,
        complete: bool,
        siblings: tuple[Measured, ...] = (),
        conditions: Conditions | None = None,
    ) -> Ladder:
        return Ladder(
            source=source,
            rungs=found.rungs,
            left_out=tuple(self.left_out),
            siblings=siblings,
            conditions=conditions,
            basis=found.basis,
            recommended=found.recommended,
            nothing_fits=found.nothing_fits,
            imatrix=None if self.weights is None else str(self.weights.path),
            n_ctx=self.options.n_ctx,
            room=self.memory.room,
            needed_bytes=needed_bytes,
            free_bytes=free_bytes(self.registry.home),
            complete=complete,
        )
