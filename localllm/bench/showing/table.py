"""Runs as a table for people: what differs or matters, and notes in plain words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localllm.bench.showing.labels import SETTINGS, differing_settings, telling_settings
from localllm.library.bench.record import BenchRow, BenchRun, DeviceMemory, LatencyRow, Percentiles
from localllm.ui import Bytes, Count, Percent, Rate, Seconds, Table, View
from localllm.ui.view import AnyCell, Heading, Note, Part, Toned

_NAMES = {
    "n_threads": "threads", "n_batch": "batch", "n_ubatch": "ubatch", "type_k": "K",
    "type_v": "V", "n_gpu_layers": "ngl", "n_cpu_moe": "ncmoe", "split_mode": "split",
    "main_gpu": "main GPU", "no_kv_offload": "nkvo", "flash_attn": "fa", "tensor_split": "ts",
}  # fmt: skip
_FLASH = {-1: "auto", 0: "off", 1: "on"}
# Told also where all rows have the same value, if it is not the usual one.
_TOLD = {"n_batch", "n_ubatch", "type_k", "type_v"}
_MOST_NAMED = 4  # rows in one note
_MEMORY_ERROR = 0.05  # a prediction that was further off than this stands out


@dataclass(frozen=True)
class _Column:
    title: str
    cell: Callable[[BenchRow], AnyCell]
    always: bool = False  # also where no row has anything in it


def table(runs: Sequence[BenchRun]) -> View:
    """The rows of all runs, the extras of each, and what to know about them."""
    rows = [row for run in runs for row in run.rows]
    parts: list[Part] = []
    if rows:
        columns = [c for c in _columns(rows) if c.always or any(_said(c.cell(r)) for r in rows)]
        parts.append(
            Table([c.title for c in columns], [[c.cell(row) for c in columns] for row in rows])
        )
    parts += _devices(rows)
    for run in runs:
        parts += _extras(run, several=len(runs) > 1)
    return [*parts, *_notes(runs, rows)]


def _said(cell: AnyCell) -> bool:
    return cell is not None


def _columns(rows: Sequence[BenchRow]) -> list[_Column]:
    several = len({row.model for row in rows}) > 1
    differing = [name for name, _ in differing_settings(rows)]
    has_gpu = any(row.gpu_info for row in rows)
    told = {name for name, _ in telling_settings(rows)} & _TOLD
    settings = [
        name for name, _ in SETTINGS
        if (name in differing and not (name == "n_gpu_layers" and has_gpu)) or name in told
    ]  # fmt: skip
    columns = [_Column("model", lambda r: r.model)]
    if several:
        columns += [
            _Column("size", lambda r: Bytes(r.model_size)),
            _Column("params", lambda r: Count(r.model_n_params)),
        ]
    if has_gpu:
        columns.append(_Column("on GPU", lambda r: f"{r.n_layers_offloaded}/{r.n_layers}"))
    columns += [_Column(_NAMES[name], _setting(name)) for name in settings]
    return [*columns, *_FIGURES]


def _setting(name: str) -> Callable[[BenchRow], AnyCell]:
    def cell(row: BenchRow) -> AnyCell:
        value = getattr(row, name)
        if name == "flash_attn":
            return _FLASH.get(value, str(value))
        return int(value) if isinstance(value, bool) else value

    return cell


def _rate(row: BenchRow) -> AnyCell:
    if row.failure is not None:
        return Toned(f"✗ {row.failure.kind.replace('_', ' ')}", "bad")
    noisy = row.evidence is not None and row.evidence.noisy
    rate = Rate(row.avg_ts, "")
    return Toned(rate, "warn") if noisy else rate


def _interval(row: BenchRow) -> AnyCell:
    if row.ci95_low_ts is None or row.ci95_high_ts is None:
        return None
    digits = 2 if row.avg_ts < 100 else 1
    return f"{row.ci95_low_ts:.{digits}f}–{row.ci95_high_ts:.{digits}f}"


def _error(row: BenchRow) -> AnyCell:
    if not row.predicted_bytes or not row.measured_bytes:
        return None
    error = (row.predicted_bytes - row.measured_bytes) / row.measured_bytes
    text = _signed(error)
    return Toned(text, "warn") if abs(error) > _MEMORY_ERROR else text


def _signed(share: float) -> str:
    """+1.2%; no sign on what rounds to nothing."""
    return f"{share:+.1%}" if abs(share) >= 0.0005 else "0.0%"


def _joules(row: BenchRow) -> AnyCell:
    return row.evidence.joules_per_token if row.evidence else None


def _ok(row: BenchRow, value: float) -> AnyCell:
    return Rate(value, "") if row.failure is None else None


_FIGURES = (
    _Column("test", lambda r: r.test, always=True),
    _Column("t/s", _rate, always=True),
    _Column("±", lambda r: _ok(r, r.stddev_ts), always=True),
    _Column("95 % CI", _interval),
    _Column("predicted", lambda r: Bytes(r.predicted_bytes) if r.predicted_bytes else None),
    _Column("measured", lambda r: Bytes(r.measured_bytes) if r.measured_bytes else None),
    _Column("error", _error),
    _Column(
        "of peak",
        lambda r: None if r.bandwidth_efficiency is None else Percent(r.bandwidth_efficiency),
    ),
    _Column("J/token", _joules),
)


# --- memory by device, extras ------------------------------------------------------------


def _devices(rows: Sequence[BenchRow]) -> list[Part]:
    """The devices of the row that takes most, of each model, where there is more than main
    memory."""
    largest: dict[str, BenchRow] = {}
    for row in rows:
        if len(row.memory) > 1 and row.measured_bytes >= _measured(largest.get(row.model)):
            largest[row.model] = row
    if not largest:
        return []
    columns = ("model", "test", "device", "predicted", "measured", "error", "weights", "context",
               "compute")  # fmt: skip
    cells = [_device(row, memory) for row in largest.values() for memory in row.memory]
    return [Heading("Memory"), Table(columns, cells)]


def _measured(row: BenchRow | None) -> int:
    return row.measured_bytes if row else 0


def _device(row: BenchRow, memory: DeviceMemory) -> list[AnyCell]:
    error = memory.error if memory.predicted_bytes else None
    return [
        row.model,
        row.test,
        memory.device,
        Bytes(memory.predicted_bytes) if memory.predicted_bytes else None,
        Bytes(memory.measured_bytes),
        None if error is None else _signed(error),
        Bytes(memory.weights_bytes),
        Bytes(memory.context_bytes),
        Bytes(memory.compute_bytes),
    ]


def _extras(run: BenchRun, *, several: bool) -> list[Part]:
    of = f" of {run.model}" if several else ""
    parts: list[Part] = []
    if run.load is not None:
        cells: list[list[AnyCell]] = [
            [kind, len(times), Seconds(min(times)), Seconds(sum(times) / len(times))]
            for kind, times in (("cold", run.load.cold_s), ("warm", run.load.warm_s))
            if times
        ]
        parts += [Heading(f"Loading{of}"), Table(("file", "loads", "fastest", "mean"), cells)]
        if run.load.cold_refused:
            parts.append(Note(f"no cold loads: {run.load.cold_refused}"))
    if run.latency:
        parts += [Heading(f"Latency{of}"), *(_latency(row) for row in run.latency)]
    if run.batched:
        parts += [Heading(f"Sequences together{of}"), _batched(run)]
    if run.serving:
        parts += [Heading(f"Serving{of}"), _serving(run)]
    return parts


_PERCENTILES = ("", "p50", "p90", "p95", "p99", "max")


def _latency(row: LatencyRow) -> Table:
    def line(name: str, p: Percentiles) -> list[AnyCell]:
        return [name, *map(Seconds, (p.p50_s, p.p90_s, p.p95_s, p.p99_s, p.max_s))]

    what = f"{row.n_answers} answers, {row.n_prompt} tokens in, {row.n_gen} out"
    return Table(
        (what, *_PERCENTILES[1:]),
        [line("first token", row.first_token), line("between tokens", row.inter_token)],
    )


def _batched(run: BenchRun) -> Table:
    cells: list[list[AnyCell]] = [
        [
            row.n_parallel,
            *((row.failure.message, None) if row.failure else (None, Rate(row.prompt_tps))),
            None if row.failure else Rate(row.decode_tps),
        ]
        for row in run.batched
    ]
    if not any(row.failure for row in run.batched):
        return Table(("sequences", "pp", "tg"), [[c[0], c[2], c[3]] for c in cells])
    return Table(("sequences", "failure", "pp", "tg"), cells)


def _serving(run: BenchRun) -> Table:
    columns = ("clients", "tg", "requests/s", "first token p50", "p95", "gap to batched")
    cells: list[list[AnyCell]] = [
        [
            row.n_parallel,
            Toned(f"✗ {row.failure.message}", "bad") if row.failure else Rate(row.decode_tps),
            None if row.failure else f"{row.requests_s:.3g}",
            None if row.failure else Seconds(row.first_token.p50_s),
            None if row.failure else Seconds(row.first_token.p95_s),
            None if row.gap is None else _signed(row.gap),
        ]
        for row in run.serving
    ]
    return Table(columns, cells)


# --- notes -------------------------------------------------------------------------------


def _notes(runs: Sequence[BenchRun], rows: Sequence[BenchRow]) -> list[Part]:
    notes: list[Part] = []
    failed = [(row, row.failure) for row in rows if row.failure is not None]
    notes += [Note(f"✗ {_which(row, rows)}: {why.message}", "bad") for row, why in failed]
    for reason, noisy in _noise(rows).items():
        notes.append(Note(f"△ noisy ({_several(noisy, rows)}): {reason}", "warn"))
    if rows:
        notes.append(Note(_where(rows[0])))
        notes.append(Note(_meaning(rows)))
    kept = [f"#{run.id}" for run in runs if run.id is not None]
    if kept:
        notes.append(Note(f"kept as {', '.join(kept)}: localllm bench show {kept[0][1:]}"))
    return notes


def _which(row: BenchRow, rows: Sequence[BenchRow]) -> str:
    model = f"{row.model} " if len({r.model for r in rows}) > 1 else ""
    settings = [f"{_NAMES[name]} {getattr(row, name)}" for name, _ in differing_settings(rows)]
    return model + " ".join([row.test, *settings])


def _several(some: Sequence[BenchRow], rows: Sequence[BenchRow]) -> str:
    """Names of `some` rows; of many, the first."""
    if len(some) == len(rows) > 1:
        return "all rows"
    names = [_which(row, rows) for row in some[:_MOST_NAMED]]
    more = len(some) - len(names)
    return ", ".join([*names, f"{more} more"] if more else names)


def _noise(rows: Sequence[BenchRow]) -> dict[str, list[BenchRow]]:
    """Reasons to distrust, and the rows that each concerns."""
    found: dict[str, list[BenchRow]] = {}
    for row in rows:
        for reason in row.evidence.noisy if row.evidence else ():
            found.setdefault(reason, []).append(row)
    return found


def _where(row: BenchRow) -> str:
    threads = f"{row.n_threads} threads" if row.n_threads != 1 else "1 thread"
    gpu = row.gpu_info or "no GPU"
    return (
        f"{row.model_type}, {Bytes(row.model_size)}; {row.cpu_info}, {threads}; {gpu}; "
        f"llama.cpp {row.build_commit}"
    )


def _meaning(rows: Sequence[BenchRow]) -> str:
    said = ["t/s: mean ± sample deviation", "predicted, measured: memory by the plan and in use"]
    if any(row.bandwidth_efficiency is not None for row in rows):
        said.append("of peak: share of the memory's bandwidth that reading weights and cache took")
    return "; ".join(said)
