"""Everything of one run, for the terminal."""

from __future__ import annotations

from localllm.bench.showing.conditions import devices_table, rows_table, run_fields, signed_percent
from localllm.bench.showing.labels import entries
from localllm.library.bench.record import BenchRun, Failure, Percentiles
from localllm.ui import Heading, Rate, Seconds, Table
from localllm.ui.view import AnyCell, Part, Toned

_NO_PERCENTILES = (None, None, None, None)


def run_view(run: BenchRun) -> list[Part]:
    """Conditions, figures with their evidence, memory, loading, latency, parallel runs."""
    found = entries([run])
    view: list[Part] = [run_fields(run)]
    if found:
        view += [Heading("Figures"), rows_table(found)]
    if any(e.row.memory for e in found):
        view += [Heading("Memory"), devices_table(found)]
    tables = (
        ("Loading", _loading(run)), ("Latency", _latency(run)),
        ("Several sequences", _batched(run)), ("Serving", _serving(run)),
    )  # fmt: skip
    for title, table in tables:
        if table is not None:
            view += [Heading(title), table]
    return view


def _loading(run: BenchRun) -> Table | None:
    if run.load is None:
        return None
    rows: list[tuple[AnyCell, ...]] = [
        (name, len(times), Seconds(sum(times) / len(times)), Seconds(min(times)),
         Seconds(max(times)), None)
        for name, times in (("cold", run.load.cold_s), ("warm", run.load.warm_s)) if times
    ]  # fmt: skip
    if run.load.cold_refused:
        rows.append(("cold", 0, None, None, None, Toned(run.load.cold_refused, "dim")))
    return Table(("load", "times", "mean", "fastest", "slowest", "remark"), rows)


def _latency(run: BenchRun) -> Table | None:
    rows = [
        (r.n_prompt, r.n_gen, r.n_answers, *_two(r.first_token), *_two(r.inter_token),
         Rate(r.prompt_tps, ""), Rate(r.decode_tps, ""))
        for r in run.latency
    ]  # fmt: skip
    columns = ("prompt", "answer", "answers", "first token p50", "p99", "between tokens p50",
               "p99", "prompt t/s", "answer t/s")  # fmt: skip
    return Table(columns, rows) if rows else None


def _batched(run: BenchRun) -> Table | None:
    rows = [
        (r.n_parallel, r.n_prompt, r.n_gen,
         *(_NO_PERCENTILES if r.failure else (Rate(r.prompt_tps, ""), Seconds(r.prompt_s),
                                             Rate(r.decode_tps, ""), Seconds(r.decode_s))),
         _failed(r.failure))
        for r in run.batched
    ]  # fmt: skip
    columns = (
        "sequences",
        "prompt",
        "answer",
        "prompt t/s",
        "took",
        "answer t/s",
        "took",
        "failed",
    )
    return Table(columns, rows) if rows else None


def _serving(run: BenchRun) -> Table | None:
    rows = []
    for r in run.serving:
        figures: tuple[AnyCell, ...] = (None,) * 7
        if r.failure is None:
            gap = None if r.gap is None else signed_percent(r.gap)
            figures = (Rate(r.decode_tps, ""), r.requests_s, *_two(r.first_token),
                       *_two(r.inter_token), gap)  # fmt: skip
        head = (r.n_parallel, r.n_requests, r.n_prompt, r.n_gen)
        rows.append((*head, *figures, _failed(r.failure)))
    columns = ("clients", "requests", "prompt", "answer", "t/s", "requests/s", "first token p50",
               "p99", "between tokens p50", "p99", "gap to batched", "failed")  # fmt: skip
    return Table(columns, rows) if rows else None


def _two(of: Percentiles) -> tuple[AnyCell, AnyCell]:
    return Seconds(of.p50_s), Seconds(of.p99_s)


def _failed(failure: Failure | None) -> AnyCell:
    return None if failure is None else Toned(f"{failure.kind}: {failure.message}", "bad")
