"""What runs look like: the figures of `--chart`, of reports and of the history."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from localllm.bench.showing.labels import SETTINGS, Entry, entries, run_names
from localllm.library.bench.case import BenchTest
from localllm.library.bench.record import BenchRow, BenchRun, Percentiles
from localllm.ui.figure import (
    Axis,
    Bar,
    BarPlot,
    BarSeries,
    Figure,
    LinePlot,
    Point,
    ScatterPlot,
    Series,
)

RATE = Axis("rate", "t/s", from_zero=True)
MOST_BARS = 40  # in one plot; a sweep has its curves
# What a sweep may run over, and what its axis is called.
_SWEPT = (
    ("n_depth", Axis("tokens in the cache")), ("n_prompt", Axis("prompt tokens")),
    ("n_gen", Axis("generated tokens")), ("n_threads", Axis("threads")),
    ("n_batch", Axis("batch size", log=True)), ("n_ubatch", Axis("micro-batch size", log=True)),
    ("n_gpu_layers", Axis("layers on the GPU (-ngl)")),
    ("n_cpu_moe", Axis("layers with experts on the CPU")),
)  # fmt: skip
_LEAST_SWEEP = 3  # values that make a curve
INTERVAL = "Mean of the samples with its 95 % confidence interval."


def speed_bars(runs: Sequence[BenchRun]) -> tuple[BarPlot, ...]:
    """Prompt processing, token generation and both in turn, each where it was measured.

    Where that were too many bars, rows that a curve shows are left out.
    """
    found = entries(runs)
    plots = []
    for title, wanted in (
        ("Prompt processing", (True, False)),
        ("Token generation", (False, True)),
        ("Prompt processing, then generation", (True, True)),
    ):
        chosen = [e for e in found if (e.row.n_prompt > 0, e.row.n_gen > 0) == wanted]
        if len(chosen) > MOST_BARS:
            swept = {id(row) for _, group in _sweeps(found) for row in group}
            chosen = [e for e in chosen if id(e.row) not in swept][:MOST_BARS]
        if chosen:
            plots.append(_rates(title, chosen))
    return tuple(plots)


def _rates(title: str, found: Sequence[Entry]) -> BarPlot:
    tests = dict.fromkeys(e.row.test for e in found)
    series = [
        BarSeries(test, [_rate_bar(e) for e in found if e.row.test == test]) for test in tests
    ]
    if len(tests) == 1:
        title = f"{title}: {next(iter(tests))}"
    return BarPlot(title, RATE, series, INTERVAL)


def _rate_bar(entry: Entry) -> Bar:
    row = entry.row
    if row.failure is not None:
        return Bar(entry.label, None, note=f"{row.failure.kind}: {row.failure.message}")
    noisy = "; ".join(row.evidence.noisy) if row.evidence else ""
    return Bar(
        entry.label, row.avg_ts, row.ci95_low_ts, row.ci95_high_ts,
        f"noisy: {noisy}" if noisy else "",
    )  # fmt: skip


# --- sweeps -----------------------------------------------------------------------------------


def sweep_curves(runs: Sequence[BenchRun]) -> tuple[LinePlot, ...]:
    """One plot for each quantity that was swept and each kind of test."""
    found = entries(runs)
    by_row = {id(e.row): e for e in found}
    plots: dict[tuple[str, str], list[Series]] = {}
    axes = dict(_SWEPT)
    for name, group in _sweeps(found):
        first = by_row[id(group[0])]
        kind = kind_of(group[0])
        points = [Point(getattr(r, name), r.avg_ts, r.ci95_low_ts, r.ci95_high_ts) for r in group]
        label = _series_name(first, name)
        plots.setdefault((name, kind), []).append(Series(label, points))
    return tuple(
        LinePlot(f"{kind} over {axes[name].label}", axes[name], RATE, series, INTERVAL)
        for (name, kind), series in plots.items()
    )


def kind_of(row: BenchRow) -> str:
    """The name of what a row measured, without its numbers."""
    if row.n_prompt and row.n_gen:
        return "Prompt processing, then generation"
    return "Prompt processing" if row.n_prompt else "Token generation"


def _series_name(entry: Entry, swept: str) -> str:
    """Without the swept quantity: it is the axis."""
    short = dict(SETTINGS).get(swept)
    how = " ".join(
        word for word in entry.how.split() if short is None or word.split("=")[0] != short
    )
    row = entry.row
    known = {f: 0 if f == swept else getattr(row, f) for f in ("n_prompt", "n_gen", "n_depth")}
    test = f"@ d{known['n_depth']}" if known["n_depth"] else ""
    if known["n_prompt"] + known["n_gen"]:
        test = BenchTest(**known).name
    return " ".join(word for word in (entry.who, test, how) if word)


def _sweeps(found: Sequence[Entry]) -> list[tuple[str, list[BenchRow]]]:
    """Rows that differ in one number alone, of which there are enough values."""
    made = []
    for name, _ in _SWEPT:
        groups: dict[Hashable, list[BenchRow]] = {}
        for entry in found:
            row = entry.row
            if row.failure is None and (name not in ("n_prompt", "n_gen") or getattr(row, name)):
                groups.setdefault((entry.who, *setting_values(row, name)), []).append(row)
        for group in groups.values():
            if len({getattr(row, name) for row in group}) >= _LEAST_SWEEP:
                made.append((name, sorted(group, key=lambda row: getattr(row, name))))
    return made


def setting_values(row: BenchRow, but: str) -> tuple[Hashable, ...]:
    """Test and settings without the one named `but`: what rows must share to be comparable."""
    names = ["n_prompt", "n_gen", "n_depth", *(name for name, _ in SETTINGS)]
    return tuple(getattr(row, name) for name in names if name != but)


# --- memory, loading, latency -----------------------------------------------------------------


def memory_bars(runs: Sequence[BenchRun]) -> BarPlot | None:
    """Predicted and measured, by device, of each setting that was loaded."""
    bars: dict[str, tuple[int, int]] = {}
    for entry in entries(runs):
        for memory in entry.row.memory:
            label = f"{entry.label}: {memory.device}"
            known = bars.get(label, (0, 0))  # of several tests the one that needs most
            bars[label] = max(known, (memory.predicted_bytes, memory.measured_bytes))
    bars = {label: both for label, both in bars.items() if any(both)}
    if not bars:
        return None
    return BarPlot(
        "Memory, predicted and measured",
        Axis("memory", kind="bytes", from_zero=True),
        [
            BarSeries("predicted", [Bar(label, both[0]) for label, both in bars.items()]),
            BarSeries(
                "measured",
                [Bar(label, both[1] or None, note="" if both[1] else "not measured")
                 for label, both in bars.items()],
            ),
        ],
        "Weights, cache and compute buffers; the test that needs most.",
    )  # fmt: skip


def load_bars(runs: Sequence[BenchRun]) -> BarPlot | None:
    """Mean time of cold and warm loads, from the fastest to the slowest."""
    series = []
    for name in ("cold", "warm"):
        bars = []
        for run, who in zip(runs, run_names(runs), strict=True):
            times = getattr(run.load, f"{name}_s") if run.load else ()
            if times:
                bars.append(Bar(who, sum(times) / len(times), min(times), max(times)))
            elif run.load and name == "cold" and run.load.cold_refused:
                bars.append(Bar(who, None, note=run.load.cold_refused))
        if bars:
            series.append(BarSeries(name, bars))
    if not series:
        return None
    caption = "Mean, fastest and slowest. Cold: the file was not in the page cache."
    return BarPlot("Loading", Axis("time", kind="seconds", from_zero=True), series, caption)


def latency_bars(runs: Sequence[BenchRun]) -> tuple[BarPlot, ...]:
    """Percentiles of time to first token and between tokens."""
    first: list[tuple[str, Percentiles]] = []
    between: list[tuple[str, Percentiles]] = []
    for run, who in zip(runs, run_names(runs), strict=True):
        for row in run.latency:
            label = f"{who} {row.n_prompt}+{row.n_gen}"
            first.append((label, row.first_token))
            between.append((label, row.inter_token))
        for served in run.serving:
            if served.failure is None:
                label = f"{who} serving ×{served.n_parallel}"
                first.append((label, served.first_token))
                between.append((label, served.inter_token))
    titles = ("Time to first token", "Time between tokens")
    return tuple(
        _percentile_plot(title, found)
        for title, found in zip(titles, (first, between), strict=True)
        if found
    )


def _percentile_plot(title: str, found: Sequence[tuple[str, Percentiles]]) -> BarPlot:
    names = (("p50", "p50_s"), ("p90", "p90_s"), ("p95", "p95_s"), ("p99", "p99_s"))
    series = [
        BarSeries(name, [Bar(label, getattr(p, field)) for label, p in found])
        for name, field in names
    ]
    return BarPlot(title, Axis("time", kind="seconds", from_zero=True), series)


# --- several at once --------------------------------------------------------------------------


def parallel_curves(runs: Sequence[BenchRun]) -> tuple[LinePlot, ...]:
    """Throughput of all sequences together over their number: bare, and through the scheduler."""
    decode: list[Series] = []
    prompt: list[Series] = []
    for run, who in zip(runs, run_names(runs), strict=True):
        batched = [row for row in run.batched if row.failure is None]
        served = [row for row in run.serving if row.failure is None]
        if batched:
            decode.append(
                Series(f"{who} batched", [Point(r.n_parallel, r.decode_tps) for r in batched])
            )
            prompt.append(
                Series(f"{who} batched", [Point(r.n_parallel, r.prompt_tps) for r in batched])
            )
        if served:
            decode.append(
                Series(f"{who} serving", [Point(r.n_parallel, r.decode_tps) for r in served])
            )
    x = Axis("sequences at once", log=True)
    titles = ("Generation of several sequences", "Prompts of several sequences")
    return tuple(
        LinePlot(title, x, RATE, series, "All sequences together.")
        for title, series in zip(titles, (decode, prompt), strict=True)
        if series
    )


def size_and_speed(runs: Sequence[BenchRun]) -> ScatterPlot | None:
    """Of three models or more: what a larger one costs in speed."""
    points: dict[str, Point] = {}
    for entry in entries(runs):
        row = entry.row
        if row.failure is None and row.n_gen and not row.n_prompt:
            found = Point(row.model_size, row.avg_ts, row.ci95_low_ts, row.ci95_high_ts, entry.who)
            known = points.get(entry.who)
            points[entry.who] = found if known is None or found.y > known.y else known
    if len({point.x for point in points.values()}) < _LEAST_SWEEP:
        return None
    series = [Series("", tuple(points.values()))]
    x = Axis("weights", kind="bytes", from_zero=True)
    return ScatterPlot(
        "Size and speed of generation", x, RATE, series, caption="The fastest setting of each."
    )


def all_figures(runs: Sequence[BenchRun]) -> tuple[Figure, ...]:
    """What `--chart` draws, the most asked for first."""
    single = (memory_bars(runs), load_bars(runs))
    return (
        *speed_bars(runs), *sweep_curves(runs), *parallel_curves(runs), *latency_bars(runs),
        *(figure for figure in single if figure is not None),
    )  # fmt: skip
