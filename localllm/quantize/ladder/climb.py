"""Climbing a ladder: each rung made, measured and kept before the next, so that what is finished
stays finished. The same command goes on where an earlier one stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from localllm.errors import DamagedFile, DiskFull, EngineError, Interrupted, LocalLLMError
from localllm.formats.gguf import read_model
from localllm.library.bench.restore import value_from
from localllm.placement import PlanOptions, settled_plan, this_machine
from localllm.quantize.ladder.ladder import (
    LadderOptions,
    Rung,
    candidates,
    failed_rung,
    planned_rung,
)
from localllm.quantize.ladder.recommend import basis, order
from localllm.quantize.ladder.rungs import Fit, PlannedRung, fit_of
from localllm.quantize.made_with import lineage_of
from localllm.quantize.measured.base_figures import base_figures
from localllm.quantize.measured.measurer import Measurer
from localllm.quantize.measured.record import Measured, has_figures, row_of
from localllm.quantize.measured.siblings import sibling_row, siblings
from localllm.quantize.quantize import made_already, quantize
from localllm.quantize.source import Source
from localllm.registry import Model, Registry
from localllm.ui import Bytes, Progress, Sink

KIND = "ladder"
SCHEMA = 1


@dataclass
class Climb:
    """One ladder on its way. `rungs` has what is finished; `error` is what ended it early, or the
    first problem where no rung has any figure."""

    source: Source
    planned: Sequence[PlannedRung]
    options: LadderOptions
    measurer: Measurer
    registry: Registry
    sink: Sink
    rungs: list[Rung] = field(default_factory=list)
    error: LocalLLMError | None = None
    problems: list[LocalLLMError] = field(default_factory=list)  # of rungs that were not made
    _record: int | None = None
    _mine: dict[str, Model] = field(default_factory=dict)  # made now, by name

    def run(self) -> tuple[Measured, tuple[Measured, ...]]:
        """Every rung in turn, then the source's speed; the source's row and its siblings'.

        A rung that fails is a row, and the next is tried; Ctrl-C ends it with what is finished.
        Raises DiskFull before anything is written, and UsageProblem of the text.
        """
        base = self.measurer.base
        source = row_of(base, "source", base.file_type)
        others: tuple[Measured, ...] = ()
        needed = self._check_space()
        try:
            with base_figures(
                self.measurer, self.registry, len(self.planned), self.sink.note, needed
            ):
                for one in self.planned:
                    self.rungs.append(self._rung(one))
                    self._keep_figures()
                    self._let_go()
                self._make_best()
            if any(rung.measured is not None for rung in self.rungs):
                source, others = self.measurer.source(), self._siblings()
        except (KeyboardInterrupt, Interrupted):
            self.error = Interrupted(
                f"interrupted; {len(self.rungs)} of {len(self.planned)} rungs are finished",
                "the same command goes on from there",
            )
        if self.error is None and not any(
            r.measured and has_figures(r.measured) for r in self.rungs
        ):
            self.error = next(iter((*self.problems, *self.measurer.problems)), None)
        return source, others

    def _siblings(self) -> tuple[Measured, ...]:
        """What was made of the source beside the rungs, as far as it was measured before."""
        mine = [rung.model for rung in self.rungs if rung.model is not None]
        found = siblings(self.source.model, self.registry, self.sink.progress, but=mine)
        return tuple(sibling_row(model, self.measurer) for model in found)

    def _rung(self, one: PlannedRung) -> Rung:
        if one.plan is None:
            self.problems += [one.problem] if one.problem else []
            return failed_rung(one, one.problem)
        if self.options.keep != "all" and (known := self._known(one)) is not None:
            return known
        try:
            made = quantize(
                self.source, one.request, self.registry, self.sink.progress, self.sink.note
            )
        except LocalLLMError as error:
            if isinstance(error, Interrupted):
                raise
            self.problems.append(error)
            return failed_rung(one, error)
        assert made.model is not None
        if not made.reused:
            self._mine[made.model.name] = made.model
        measured = self.measurer.measure(made.model, "made", one.type)
        rung = replace(
            planned_rung(one), model=made.model.name, measured=measured, path=made.model.path,
            state="reused" if made.reused else "made", file_bytes=made.file_bytes,
        )  # fmt: skip
        return replace(rung, fit=self._fit(made.model))

    def _fit(self, model: Model) -> Fit | None:
        """As llama.cpp itself would place it; None for a model whose memory cannot be planned."""
        options = PlanOptions(n_ctx=self.options.n_ctx)
        header = read_model([file.path for file in model.weights])
        try:
            return fit_of(settled_plan(header, model.path, this_machine(), options))
        except (DamagedFile, EngineError):
            return None

    # --- what stays on the disk -----------------------------------------------------------------

    def _check_space(self) -> int:
        """Raise DiskFull where what is still to be made does not fit; its bytes."""
        free, needed = free_bytes(self.registry.home), self.needed_bytes
        if free < needed:
            raise DiskFull(
                f"{self.registry.home} has {Bytes(free)} free, the ladder needs {Bytes(needed)}",
                "fewer types, --keep best, or localllm prune",
            )
        return needed

    @property
    def needed_bytes(self) -> int:
        """What is still to be written, at the most at once."""
        return needed_bytes(
            self.source, self.planned, self.options, self.registry, self.sink.progress
        )

    def _let_go(self) -> None:
        """Remove what was made now and does not stay. What was there before is never removed."""
        if self.options.keep == "all":
            return
        best = self._best() if self.options.keep == "best" else None
        for number, rung in enumerate(self.rungs):
            if rung.model in self._mine and rung.model != best and rung.measured is not None:
                self.registry.remove(self._mine.pop(rung.model))
                self.rungs[number] = replace(rung, state="removed", path=None)

    def _make_best(self) -> None:
        """Where the best was removed by an earlier climb, make it once more."""
        if self.options.keep != "best" or (name := self._best()) is None:
            return
        number = next(n for n, rung in enumerate(self.rungs) if rung.model == name)
        rung = self.rungs[number]
        if rung.path is None:
            made = quantize(
                self.source, self.planned[number].request, self.registry, self.sink.progress,
                self.sink.note,
            )  # fmt: skip
            assert made.model is not None
            self.rungs[number] = replace(rung, state="made", path=made.model.path)

    def _best(self) -> str | None:
        """The recommended one of the rungs so far; any until one can be."""
        rungs = tuple(self.rungs)
        by = basis([rung.measured for rung in rungs if rung.measured is not None])
        found = [c for c in candidates(rungs) if c.fit.runs]
        return min(found, key=lambda c: order(c, by)).measured.model if found else None

    # --- what the registry keeps of rungs that are removed ------------------------------------

    def _known(self, one: PlannedRung) -> Rung | None:
        """The figures of a rung that an earlier climb made, measured and removed."""
        lineage = lineage_of(self.source, one.request, self.sink.progress)
        if made_already(self.source, one.request, self.registry, lineage) is not None:
            return None
        if self.measurer.options.again:
            return None
        key = self._key(one)
        for kept in self.registry.measurements(self.source.model, KIND):
            if kept.data.get("schema") != SCHEMA:
                continue
            for row in kept.data.get("rungs", ()):
                if row["key"] == key and not row["measured"]["failures"]:
                    measured = value_from(Measured, row["measured"])
                    measured = replace(measured, quality_reused=True, speed_reused=True)
                    return replace(
                        planned_rung(one), state="removed", measured=measured,
                        model=measured.model,
                    )  # fmt: skip
        return None

    def _key(self, one: PlannedRung) -> str:
        """What a rung's figures depend on."""
        lineage = lineage_of(self.source, one.request, self.sink.progress)
        what = [
            lineage.parents,
            lineage.parameters,
            lineage.inputs,
            asdict(self.measurer.conditions()),
            self.measurer.machine.fingerprint,
            [asdict(case) for case in self.measurer.cases()],
            self.measurer.options.repetitions,
        ]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def _keep_figures(self) -> None:
        """Write the rungs so far to the registry, so that none has to be measured again."""
        rows = [
            {"key": self._key(one), "type": rung.type, "measured": asdict(rung.measured)}
            for one, rung in zip(self.planned, self.rungs, strict=False)
            if rung.measured is not None
        ]
        data = {"schema": SCHEMA, "n_rungs": len(self.planned), "n_measured": len(rows)}
        if self._record is None:
            self._record = self.registry.record(self.source.model, KIND, data)
        self.registry.revise(self._record, {**data, "rungs": rows})


def needed_bytes(
    source: Source,
    planned: Sequence[PlannedRung],
    options: LadderOptions,
    registry: Registry,
    progress: Progress,
    *,
    hash_parent: bool = True,
) -> int:
    """Bytes of what is still to be made: of all, of the two largest where the best stays (it and
    the next), or of the largest. Without `hash_parent` a source that nobody hashed yet counts as
    one of which nothing was made."""
    sizes = []
    for one in planned:
        if one.plan is None:
            continue
        lineage = lineage_of(source, one.request, progress, hash_parent=hash_parent)
        if made_already(source, one.request, registry, lineage) is None:
            sizes.append(one.plan.file_bytes)
    at_once = {"all": len(sizes), "best": 2, "none": 1}[options.keep]
    return sum(sorted(sizes, reverse=True)[:at_once])


def free_bytes(home: Path) -> int:
    """What the disk has free where the home is, or will be."""
    while not home.exists():
        home = home.parent
    return shutil.disk_usage(home).free
