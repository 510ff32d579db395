"""Measured models as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localllm.engine.quality.interval import Estimate
from localllm.library.quality.record import Conditions
from localllm.quantize.measured.record import N_GEN, N_PROMPT, Measured, Speed
from localllm.ui import Bytes, Note, Table
from localllm.ui.view import AnyCell, Part, Toned

_ROLES = {"source": "source", "made": "", "sibling": "sibling"}


@dataclass(frozen=True)
class MeasuredSet:
    """The source first, then what was made, then its siblings."""

    rows: tuple[Measured, ...]
    conditions: Conditions


def measured_table(
    rows: Sequence[Measured], marks: Sequence[AnyCell] | None = None, *, wide: bool = False
) -> Table:
    """A row a model, narrow enough for a terminal: errors as shares. `wide` gives every error
    and interval as it is. `marks` are a last column of the caller's."""
    names = ("model", "type") if wide else ("model",)
    unit = " t/s" if wide else ""
    columns = [*names, "size", "bpw", "PPL", "KLD", "same top" if wide else "top",
               f"pp{N_PROMPT}{unit}", f"tg{N_GEN}{unit}", ""]  # fmt: skip
    said = [_ROLES[row.role] for row in rows] if marks is None else marks
    make = _wide_cells if wide else _cells
    cells = [(*make(row), mark) for row, mark in zip(rows, said, strict=True)]
    return Table(columns, cells)


def _cells(row: Measured) -> tuple[AnyCell, ...]:
    """A `*` marks figures of other conditions, a `!` disturbed speeds."""
    quality, speed = _stars(row)
    bits = None if row.bits_per_weight is None else round(row.bits_per_weight, 2)
    top = None if row.same_top is None else f"{100 * row.same_top.value:.3g} %{quality}"
    return (
        Toned(row.model, "name"), Bytes(row.size_bytes), bits,
        _relative(row.perplexity, 4, quality), _relative(row.mean_kld, 3, quality), top,
        _relative_speed(row.pp, speed), _relative_speed(row.tg, speed),
    )  # fmt: skip


def _wide_cells(row: Measured) -> tuple[AnyCell, ...]:
    quality, speed = map(bool, _stars(row))
    bits = None if row.bits_per_weight is None else round(row.bits_per_weight, 2)
    return (
        Toned(row.model, "name"), row.type, Bytes(row.size_bytes), bits,
        estimate_text(row.perplexity, other=quality), estimate_text(row.mean_kld, other=quality),
        estimate_text(row.same_top, percent=True, other=quality),
        speed_text(row.pp, other=speed), speed_text(row.tg, other=speed),
    )  # fmt: skip


def _stars(row: Measured) -> tuple[str, str]:
    """For figures of quality and of speed: `*` where they are of other conditions."""
    kinds = ("quality", "speed")
    quality, speed = (any(t.startswith(kind) for t in row.elsewhere) for kind in kinds)
    return "*" if quality else "", "*" if speed else ""


def _relative(e: Estimate | None, digits: int, star: str) -> str | None:
    """`0.0213 ±5%`: the standard error by context as a share of the figure."""
    if e is None:
        return None
    error = e.standard_error if e.clustered_error is None else e.clustered_error
    about = "" if error is None or not e.value else f" ±{100 * error / abs(e.value):.0f}%"
    return f"{e.value:.{digits}g}{about}{star}"


def _relative_speed(speed: Speed | None, star: str) -> str | None:
    """`41.2 ±3%`: half the 95 % interval as a share of the mean."""
    if speed is None:
        return None
    about = ""
    if speed.low_tps is not None and speed.high_tps is not None:
        about = f" ±{50 * (speed.high_tps - speed.low_tps) / speed.mean_tps:.0f}%"
    return f"{_rate(speed.mean_tps)}{about}{'!' if speed.noisy else ''}{star}"


def estimate_text(
    e: Estimate | None, *, percent: bool = False, other: bool = False
) -> str | None:  # fmt: skip
    """`0.0213 ± 0.0011`: the standard error by context."""
    if e is None:
        return None
    scale, unit = (100.0, " %") if percent else (1.0, "")
    error = e.standard_error if e.clustered_error is None else e.clustered_error
    about = "" if error is None else f" ± {scale * error:.2g}"
    return f"{scale * e.value:.4g}{about}{unit}{'*' if other else ''}"


def speed_text(speed: Speed | None, *, other: bool = False) -> str | None:
    """`41.2 [40.1, 42]`: the mean with its 95 % interval; `!` where the run was noisy."""
    if speed is None:
        return None
    ends = ""
    if speed.low_tps is not None and speed.high_tps is not None:
        ends = f" [{_rate(speed.low_tps)}, {_rate(speed.high_tps)}]"
    return f"{_rate(speed.mean_tps)}{ends}{'!' if speed.noisy else ''}{'*' if other else ''}"


def _rate(tps: float) -> str:
    return f"{tps:.0f}" if tps >= 100 else f"{tps:.3g}"


def notes(rows: Sequence[Measured], conditions: Conditions | None) -> list[Part]:
    """What stands under the table: conditions, and what to know of single rows."""
    found: list[Part] = []
    if conditions is not None:
        found.append(Note(conditions_text(conditions)))
    found.append(Note(
        f"top: same likeliest token as the source; pp{N_PROMPT}, tg{N_GEN}: tokens a second; "
        "±: standard error by context, of speeds half the 95 % interval"
    ))  # fmt: skip
    if any(row.quality_reused or row.speed_reused for row in rows if row.role != "sibling"):
        found.append(Note("some figures were measured before: --again measures anew"))
    for row in rows:
        found += [Note(f"* {row.model}: {text}", "warn") for text in row.elsewhere]
        found += [Note(f"{row.model}: {text}", "bad") for text in row.failures]
    if noisy := [row.model for row in rows if any(s and s.noisy for s in (row.pp, row.tg))]:
        found.append(Note(
            f"! something else held the machine back, or samples differ much: {', '.join(noisy)}; "
            "localllm bench show MODEL says what", "warn",
        ))  # fmt: skip
    if unmeasured := [r.model for r in rows if r.role == "sibling" and r.perplexity is None]:
        base = conditions.base.name if conditions and conditions.base else None
        against = f" --base {base}" if base else ""
        found.append(Note(f"not measured: localllm quality {' '.join(unmeasured)}{against}"))
    return found


def conditions_text(conditions: Conditions) -> str:
    """In one line: text, contexts, base and build."""
    settings = conditions.settings
    limit = "" if settings.limit is None else f"the first {settings.limit} "
    against = f", against {conditions.base.name}" if conditions.base else ""
    return (
        f"{conditions.text.name}: {limit}contexts of {settings.n_ctx} tokens{against}; "
        f"llama.cpp {conditions.build_commit}"
    )


def set_view(found: MeasuredSet) -> list[Part]:
    """`--measure`'s table."""
    return [measured_table(found.rows), *notes(found.rows, found.conditions)]
