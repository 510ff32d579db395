"""Under what conditions figures were taken, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from localllm.bench.showing.labels import Entry, settings_text, shared_settings
from localllm.library.bench.record import BenchRow, BenchRun
from localllm.ui import Bytes, Fields, Moment, Percent, Rate, Seconds, Table
from localllm.ui.view import AnyCell, Toned

_COLUMNS = (
    "model", "test", "settings", "t/s", "±", "95 % from", "to", "samples", "memory predicted",
    "measured", "error", "bandwidth", "of peak", "mean clock", "hottest", "throttled", "power",
    "J/token", "own cores", "others'", "took", "remarks",
)  # fmt: skip


def rows_table(found: Sequence[Entry]) -> Table:
    """Every row with its figures and its evidence; columns that nobody fills are left out."""
    rows = [_cells(entry) for entry in found]
    kept = [n for n in range(len(_COLUMNS)) if any(row[n] not in (None, "") for row in rows)]
    return Table([_COLUMNS[n] for n in kept], [[row[n] for n in kept] for row in rows])


def _cells(entry: Entry) -> list[AnyCell]:
    row, evidence = entry.row, entry.row.evidence
    failed = row.failure is not None
    head: list[AnyCell] = [entry.who, row.test, entry.how]
    if failed:
        figures: list[AnyCell] = [None] * 5
    else:
        figures = [
            Rate(row.avg_ts, ""), Rate(row.stddev_ts, ""), _rate(row.ci95_low_ts),
            _rate(row.ci95_high_ts), len(row.samples_ns) or None,
        ]  # fmt: skip
    tail: list[AnyCell] = [None] * 8
    if evidence is not None:
        tail = [
            _clock(evidence.mean_clock_hz),
            None if evidence.max_temperature_c is None else f"{evidence.max_temperature_c:.0f} °C",
            ", ".join(evidence.throttled) or None,
            None if evidence.mean_power_w is None else f"{evidence.mean_power_w:.1f} W",
            evidence.joules_per_token, _short(evidence.own_cores), _short(evidence.other_cores),
            Seconds(evidence.measured_s),
        ]  # fmt: skip
    return [*head, *figures, *_memory(row), *_bandwidth(row), *tail, remark(row)]


def remark(row: BenchRow) -> AnyCell:
    """Why a row failed or is noisy, None for a good one."""
    if row.failure is not None:
        return Toned(f"{row.failure.kind}: {row.failure.message}", "bad")
    if row.evidence is not None and row.evidence.noisy:
        return Toned("noisy: " + "; ".join(row.evidence.noisy), "warn")
    return None


def _memory(row: BenchRow) -> list[AnyCell]:
    predicted, measured = row.predicted_bytes, row.measured_bytes
    return [
        Bytes(predicted) if predicted else None,
        Bytes(measured) if measured else None,
        signed_percent((predicted - measured) / measured) if predicted and measured else None,
    ]


def _bandwidth(row: BenchRow) -> list[AnyCell]:
    got, share = row.bandwidth_bytes_s, row.bandwidth_efficiency
    return [
        None if got is None else Rate(got, "B/s"),
        None if share is None else f"{Percent(share)} ({row.peak_basis})",
    ]


def signed_percent(share: float) -> str:
    """0.05 as "+5.0 %", and what is more than tenfold as "×12"."""
    if share > 9:
        return f"×{1 + share:.0f}"
    return f"{share * 100:+.1f} %"


def _rate(value: float | None) -> AnyCell:
    return None if value is None else Rate(value, "")


def _short(value: float | None) -> AnyCell:
    return None if value is None else round(value, 2)


def _clock(hertz: int | None) -> AnyCell:
    return None if hertz is None else f"{hertz / 1e9:.2f} GHz"


def devices_table(found: Sequence[Entry]) -> Table:
    """Memory by device and part."""
    columns = ("model", "test", "device", "predicted", "measured", "error", "weights", "cache",
               "compute", "process")  # fmt: skip
    rows = [
        (
            entry.label, entry.row.test, m.device, Bytes(m.predicted_bytes),
            Bytes(m.measured_bytes), None if m.error is None else signed_percent(m.error),
            Bytes(m.weights_bytes), Bytes(m.context_bytes), Bytes(m.compute_bytes),
            None if m.process_bytes is None else Bytes(m.process_bytes),
        )
        for entry in found
        for m in entry.row.memory
    ]  # fmt: skip
    return Table(columns, rows)


def run_fields(run: BenchRun) -> Fields:
    """One run: what was asked, on what, by which versions."""
    machine = run.machine
    rows: list[tuple[str, AnyCell]] = [
        ("run", "not in the registry" if run.id is None else f"#{run.id}"),
        ("tag", run.tag),
        ("model", run.model),
        ("sha256", run.sha256),
        ("measured", Moment(run.started_at)),
        ("complete", None if run.complete else Toned("no: rows are missing", "warn")),
        ("command", run.command or None),
        ("settings", settings_text(run.rows[0], shared_settings(run.rows)) if run.rows else None),
        ("source", None if run.source == "localllm" else run.source),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
    ]
    if machine is None:
        first = run.rows[0] if run.rows else None
        rows += [
            ("processor", first.cpu_info if first else None),
            ("GPUs", (first.gpu_info or None) if first else None),
        ]
        return Fields(rows)
    return Fields([
        *rows,
        ("machine", f"{machine.host} ({machine.fingerprint})"),
        ("system", f"{machine.system}, kernel {machine.kernel}"),
        ("processor", f"{machine.cpu}: {machine.n_cores} cores, {machine.n_threads} threads"),
        ("memory", Bytes(machine.memory_bytes)),
        ("GPUs", ", ".join(machine.gpus) or "none"),
        ("driver", machine.driver),
    ])  # fmt: skip
