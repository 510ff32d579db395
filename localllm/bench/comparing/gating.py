"""From what the user named to verdicts: find the baseline, measure, judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from localllm.bench.comparing.baseline import Found, resolve_runs
from localllm.bench.comparing.compare import has_figures, run_pairs
from localllm.bench.comparing.gate import GateReport, GateRule, gate
from localllm.bench.comparing.matching import check_comparable, model_difference
from localllm.bench.comparing.rerun import ChildRerun
from localllm.bench.comparing.side import case_of
from localllm.errors import UsageProblem
from localllm.library.bench.bench import bench
from localllm.library.bench.case import Case
from localllm.library.bench.measuring.measure import Method
from localllm.library.bench.record import BenchRun
from localllm.library.bench.sweep import SweepOptions
from localllm.library.find import find_runnable
from localllm.registry import Model, Registry
from localllm.ui import Sink


@dataclass(frozen=True)
class GateOptions:
    """`run` names a run to judge as it is; else the baseline's cases are measured now, each
    `repetitions` times, with `threads` instead of the baseline's if given."""

    rule: GateRule = field(default_factory=GateRule)
    across: tuple[str, ...] = ()
    run: str | None = None
    baseline_python: Path | None = None
    repetitions: int = 5
    threads: int | None = None
    tag: str | None = None


def gate_models(
    names: Sequence[str], baseline: str, options: GateOptions, registry: Registry, sink: Sink
) -> tuple[GateReport, ...]:
    """Gate the models of `names` (none: those of the baseline) against the run or runs that
    `baseline` names. Raises what resolving, comparing and loading raise."""
    base = resolve_runs(baseline, registry)
    if options.run is not None:
        if options.baseline_python is not None or options.threads is not None:
            raise UsageProblem("--run measures nothing, so it takes no option of measuring")
        return _gate_run(names, base, options.run, options, registry, sink)
    models = [find_runnable(name, registry) for name in (names or base.models)]
    pairs = [(model, _base_of(model, base, len(models))) for model in models]
    for model, run in pairs:  # before minutes are spent
        _check_before(model, run, options)
    return tuple(_gate_now(model, run, base.origin, options, registry, sink)
                 for model, run in pairs)  # fmt: skip


def _gate_run(
    names: Sequence[str], base: Found, text: str, options: GateOptions, registry: Registry,
    sink: Sink,
) -> tuple[GateReport, ...]:  # fmt: skip
    new = resolve_runs(text, registry)
    if names:
        wanted = [find_runnable(name, registry).name for name in names]
        base, new = base.of(wanted), new.of(wanted)
    pairs, alone = run_pairs(base, new)
    reports = []
    for old, now in pairs:
        remarks = (*check_comparable(old, now, options.across), *alone)
        _warn(remarks, sink)
        reports.append(
            gate(old, now, options.rule, base_origin=base.origin, new_origin=new.origin,
                 remarks=remarks)
        )  # fmt: skip
    return tuple(reports)


def _base_of(model: Model, base: Found, n_models: int) -> BenchRun:
    """The baseline's run for `model`: of its name, else of its weights, else the only one."""
    digest = model.digest
    by_name = [run for run in base.runs if run.model == model.name]
    by_digest = [run for run in base.runs if digest and run.sha256 == digest]
    found = by_name or by_digest
    if not found and len(base.runs) == n_models == 1:
        return base.runs[0]
    if not found:
        raise UsageProblem(
            f"{base.origin} has no run of {model.name}, but of {', '.join(base.models)}",
            f"localllm bench {model.name} --tag baseline",
        )
    return found[-1]


def _check_before(model: Model, base: BenchRun, options: GateOptions) -> None:
    from localllm.library.bench.conditions.machine import this_machine_record

    now = replace(
        base,
        model=model.name,
        sha256=model.digest or base.sha256,
        machine=this_machine_record() if base.machine else None,
    )
    check_comparable(base, now, options.across)


def _gate_now(
    model: Model, base: BenchRun, origin: str, options: GateOptions, registry: Registry, sink: Sink
) -> GateReport:
    cases = _cases(base, options.threads)
    if not cases:
        return gate(base, base, options.rule, base_origin=origin)  # raises: nothing to gate
    new = bench(
        model, cases, registry, sink.progress,
        SweepOptions(
            method=Method(repetitions=options.repetitions), tag=options.tag,
            command=f"localllm {sink.command} {model.name}", verbose=sink.verbose,
        ),
        warn=sink.warn,
    )  # fmt: skip
    remarks = check_comparable(base, new, options.across)
    _warn(remarks, sink)
    side, build = _base_side(model, base, new, options, registry)
    rerun = ChildRerun(model, side, build, options.baseline_python)
    try:
        with sink.progress.steps(f"gate {model.name}", None):
            return gate(
                base, new, options.rule, rerun, base_origin=origin,
                new_origin=f"run {new.id}" if new.id is not None else "this run", remarks=remarks,
            )  # fmt: skip
    finally:
        rerun.close()


def _cases(base: BenchRun, threads: int | None) -> list[Case]:
    """The cases of the rows that have figures, each once, with what was decided then."""
    cases = [case_of(row) for row in base.rows if has_figures(row)]
    if threads is not None:
        cases = [replace(c, setup=replace(c.setup, n_threads=threads)) for c in cases]
    return list(dict.fromkeys(cases))


def _base_side(
    model: Model, base: BenchRun, new: BenchRun, options: GateOptions, registry: Registry
) -> tuple[Model | None, str | None]:
    """The baseline's model, and whose code can run it as it was run then."""
    side: Model | None = model
    if model_difference(base, new) is not None:
        known = registry.with_digest(base.sha256) if base.sha256 else None
        side = known[0] if known else None
    if options.baseline_python is not None:
        if side is None:
            raise UsageProblem(
                f"{base.model} is not here, so its side cannot be measured",
                "leave out --baseline-python, or pull it",
            )
        return side, "another install"
    return side, "this build" if _same_build(base, new) else None


def _same_build(base: BenchRun, new: BenchRun) -> bool:
    """Whether this program would run the baseline as the one that measured it did."""
    if base.source != "localllm" or not base.rows or not new.rows:
        return False
    old, now = base.rows[0], new.rows[0]
    return (old.build_commit, old.backends, old.localllm_version) == (
        now.build_commit, now.backends, now.localllm_version,
    )  # fmt: skip


def _warn(remarks: Sequence[str], sink: Sink) -> None:
    for remark in remarks:
        sink.warn(remark)
