"""llama-bench's rows as runs: it writes rows alone, one file after another."""

from __future__ import annotations

import calendar
import hashlib
import time
from collections.abc import Hashable, Iterable, Sequence

from localllm.library.bench.record import SCHEMA, BenchRow, BenchRun

_MEASURED = {
    "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts",
    "failure", "ci95_low_ts", "ci95_high_ts", "load_s", "memory", "evidence", "bytes_per_token",
    "bandwidth_bytes_s", "peak_bandwidth_bytes_s", "peak_basis", "bandwidth_efficiency",
}  # fmt: skip


def grouped(rows: Sequence[tuple[BenchRow, str]], *, complete: bool) -> tuple[BenchRun, ...]:
    """Rows in the order of the file as runs. `rows` with the options beside their fields.

    One run has one model on one machine under one build, and each test once: where a test
    comes again, a later measurement begins. Of a file that was cut off the last run is not
    complete.
    """
    started: list[tuple[Hashable, list[BenchRow], set[Hashable]]] = []
    open_at: dict[Hashable, int] = {}
    for row, options in rows:
        subject = _subject(row, options)
        case = setup_of(row)
        at = open_at.get(subject)
        if at is None or case in started[at][2]:
            at = open_at[subject] = len(started)
            started.append((subject, [], set()))
        started[at][1].append(row)
        started[at][2].add(case)
    last = open_at[_subject(*rows[-1])] if rows else None
    options_of = {subject: str(subject[-1]) for subject, _, _ in started}  # type: ignore[index]
    return tuple(
        _run(members, options_of[subject], complete or at != last)
        for at, (subject, members, _) in enumerate(started)
    )


def setup_of(row: BenchRow) -> Hashable:
    """Test and settings: what two rows share that measured the same thing."""
    fields = [name for name in BenchRow.__dataclass_fields__ if name not in _MEASURED]
    return tuple(getattr(row, name) for name in fields)


def _subject(row: BenchRow, options: str) -> tuple[Hashable, ...]:
    return (
        row.model, row.model_filename, row.model_size, row.model_n_params, row.sha256,
        row.build_commit, row.build_number, row.cpu_info, row.gpu_info, row.backends,
        row.localllm_version, options,
    )  # fmt: skip


def _run(rows: Sequence[BenchRow], options: str, complete: bool) -> BenchRun:
    first = rows[0]
    ours = bool(first.localllm_version)
    versions = {"llama.cpp": f"{first.build_commit} ({first.build_number})"}
    if ours:
        versions["localllm"] = first.localllm_version
    return BenchRun(
        schema=SCHEMA,
        id=None,
        model=first.model,
        sha256=first.sha256,
        tag=None,
        started_at=min(seconds(row.test_time) for row in rows),
        complete=complete,
        sweep=identity(rows),
        command="" if ours else f"llama-bench {options}".rstrip(),
        machine=None,
        versions=versions,
        rows=tuple(rows),
        source="localllm" if ours else "llama-bench",
    )


def identity(rows: Iterable[BenchRow]) -> str:
    """The same for the same measurements, whatever format they were kept in."""
    lines = sorted(
        f"{row.test_time} {row.test} {row.n_threads} {row.n_batch} {row.n_ubatch}"
        f" {row.n_gpu_layers} {row.type_k} {row.type_v} {row.flash_attn} {int(row.avg_ns)}"
        f" {int(row.stddev_ns)} {row.model_size} {row.failure is None}"
        for row in rows
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def seconds(test_time: str) -> float:
    """An RFC 3339 time in UTC ("2026-11-22T02:01:31Z") since the epoch, 0 for anything else."""
    try:
        return float(calendar.timegm(time.strptime(test_time[:19], "%Y-%m-%dT%H:%M:%S")))
    except (ValueError, OverflowError):
        return 0.0
