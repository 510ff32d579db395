"""A ladder on the terminal."""

from __future__ import annotations

from localllm.quantize.ladder.ladder import Ladder, Rung
from localllm.quantize.ladder.recommend import SMALLEST_AND_BEST, value_of
from localllm.quantize.measured.record import Measured
from localllm.quantize.measured.view import measured_table, notes
from localllm.ui import Bytes, Fields, Heading, Note, Table, View
from localllm.ui.figure import Axis, Point, ScatterPlot, Series
from localllm.ui.view import AnyCell, Part, Toned

_NAMES = {"mean_kld": "mean KL divergence from the source", "perplexity": "perplexity"}
_FITS = {"all": "all on the GPU", "partial": "partly on the GPU", "cpu": "in memory"}


def ladder_view(ladder: Ladder, *, chart: bool, dry_run: bool) -> View:
    """The plan of a dry run, or the table, the plot and the recommendation."""
    if dry_run:
        return [_plan(ladder), *_room(ladder), *_ends(ladder)]
    parts: list[Part] = []
    if ladder.measured:
        parts.append(ladder_table(ladder))
    if chart and (plot := size_and_quality(ladder)) is not None:
        parts.append(plot)
    return [*parts, *_failures(ladder), *_recommended(ladder), *_notes(ladder), *_ends(ladder)]


def size_and_quality(ladder: Ladder) -> ScatterPlot | None:
    """Damage over size, on the front what nothing else beats; None below two rungs."""
    points = [point for row in ladder.measured if (point := _point(row, ladder.basis))]
    if len(points) < 2:
        return None
    divergence = ladder.basis == "mean_kld"
    label = "KLD" if divergence else "perplexity"
    unit = "nats" if divergence else ""
    return ScatterPlot(
        "Quality and size",
        Axis("file", kind="bytes"),
        # over a ladder the divergence spans three powers of ten
        Axis(label, unit, log=divergence),
        [Series("rungs", points)],
        SMALLEST_AND_BEST,
        f"Lower is better: {_NAMES[ladder.basis]}, with its 95 % interval.",
    )


def _point(row: Measured, by: str) -> Point | None:
    value = value_of(row, by)
    if value is None:
        return None
    estimate = getattr(row, by)
    return Point(row.size_bytes, value, estimate.low, estimate.high, row.type or row.model)


def ladder_table(ladder: Ladder, *, wide: bool = False) -> Table:
    """The source, the rungs with what to know of each, and the siblings."""
    by_model = {rung.model: rung for rung in ladder.rungs}
    rows = [ladder.source, *ladder.measured, *ladder.siblings]
    marks: list[AnyCell] = []
    for row in rows:
        rung = by_model.get(row.model) if row.role == "made" else None
        marks.append(row.role if rung is None else _mark(rung, ladder))
    return measured_table(rows, marks, wide=wide)


def _mark(rung: Rung, ladder: Ladder) -> AnyCell:
    if ladder.recommended is not None and ladder.recommended.model == rung.model:
        return Toned("recommended", "good")
    if rung.fit is not None and not rung.fit.runs:
        return Toned("does not fit", "warn")
    return "front" if rung.on_front else ""


def _failures(ladder: Ladder) -> list[Part]:
    failed = [(r.type, r.failure) for r in ladder.rungs if r.failure is not None]
    if not failed:
        return []
    return [Heading("Not made"), Table(("type", "why"), failed)]


def _recommended(ladder: Ladder) -> list[Part]:
    best = ladder.recommended
    if best is None:
        return []
    rows: list[tuple[str, AnyCell]] = [
        ("recommended", Toned(best.model, "good")), ("why", best.why), ("smaller", best.smaller),
    ]  # fmt: skip
    return [Heading("For this machine"), Fields(rows)]


def _notes(ladder: Ladder) -> list[Part]:
    found = notes((ladder.source, *ladder.measured, *ladder.siblings), ladder.conditions)
    found.append(Note("front: no other rung is smaller and at least as good"))
    if removed := [rung.type for rung in ladder.rungs if rung.state == "removed"]:
        found.append(Note(f"removed from the disk (--keep): {', '.join(removed)}"))
    if ladder.imatrix is not None:
        found.append(Note(f"importance matrix: {ladder.imatrix}"))
    return found


def _ends(ladder: Ladder) -> list[Part]:
    found: list[Part] = []
    if ladder.nothing_fits is not None:
        found.append(Note(ladder.nothing_fits, "bad"))
    if ladder.left_out:
        left = "; ".join(f"{one.type}: {one.why}" for one in ladder.left_out)
        found.append(Note(f"left out of the default set: {left}"))
    return found


def _plan(ladder: Ladder) -> Table:
    rows = [
        (
            rung.type, rung.model,
            None if rung.file_bytes is None else Bytes(rung.file_bytes), rung.file_bytes,
            None if rung.bits_per_weight is None else round(rung.bits_per_weight, 2),
            rung.fallbacks,
            None if rung.fit is None else Bytes(rung.fit.need_bytes),
            _place(rung), rung.failure or "",
        )
        for rung in ladder.rungs
    ]  # fmt: skip
    columns = ("type", "model", "size", "bytes", "bpw", "fallbacks", "memory", "runs", "")
    return Table(columns, rows)


def _place(rung: Rung) -> str | None:
    if rung.fit is None:
        return None
    if not rung.fit.runs:
        return "does not fit"
    return _FITS.get(rung.fit.verdict, "mostly on the CPU")


def _room(ladder: Ladder) -> list[Part]:
    return [
        Fields([
            ("to be written", f"{Bytes(ladder.needed_bytes)} ({ladder.needed_bytes} bytes)"),
            ("free on the disk", Bytes(ladder.free_bytes)),
            ("memory", ladder.room),
        ])
    ]  # fmt: skip
