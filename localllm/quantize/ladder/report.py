"""`--ladder --report FILE.html`: the ladder as one page that needs nothing but itself."""

from __future__ import annotations

from pathlib import Path

from localllm import __version__
from localllm.quantize.ladder.ladder import Ladder
from localllm.quantize.ladder.view import ladder_table, size_and_quality
from localllm.quantize.measured.record import N_GEN, N_PROMPT, Measured, Speed
from localllm.quantize.measured.view import conditions_text
from localllm.ui import Bytes, Fields, Note, Table
from localllm.ui.figure import Axis, Bar, BarPlot, BarSeries, Front, Point, ScatterPlot, Series
from localllm.ui.outfile import replace_file
from localllm.ui.page import Block, Page, Section, render_page

_RATE = Axis("rate", "t/s", from_zero=True)
_INTERVAL = "Mean of the repetitions with its 95 % interval."


def write_report(ladder: Ladder, path: Path) -> None:
    """Write the page, whole or not at all. Raises what `replace_file` raises."""
    replace_file(path, render_page(report_page(ladder)))


def report_page(ladder: Ladder) -> Page:
    """The page before it is text."""
    sections = (_choice(ladder), _quality(ladder), _speed(ladder), _numbers(ladder))
    conditions = conditions_text(ladder.conditions) if ladder.conditions else ""
    return Page(
        f"Quantizations of {ladder.source.model}",
        conditions,
        [section for section in sections if section.blocks],
        data={"schema": 1, "ladder": ladder},
        data_name="ladder.json",
        footer=f"Made by localllm {__version__}.",
    )


def _choice(ladder: Ladder) -> Section:
    blocks: list[Block] = []
    if (best := ladder.recommended) is not None:
        rows = [("recommended", best.model), ("why", best.why), ("smaller", best.smaller),
                ("memory it needs", Bytes(best.fit.need_bytes))]  # fmt: skip
        blocks.append(Fields(rows))
    if ladder.nothing_fits is not None:
        blocks.append(Note(ladder.nothing_fits, "bad"))
    if not ladder.complete:
        blocks.append(Note("The ladder was interrupted: rungs are missing.", "warn"))
    return Section("For this machine", blocks, f"It has {ladder.room}.")


def _quality(ladder: Ladder) -> Section:
    plots: list[Block] = []
    if (plot := size_and_quality(ladder)) is not None:
        plots.append(plot)
    if ladder.basis != "perplexity" and (plot := _perplexity(ladder)) is not None:
        plots.append(plot)
    intro = "The line joins the front: no other rung is smaller and at least as good."
    return Section("Quality and size", plots, intro)


def _perplexity(ladder: Ladder) -> ScatterPlot | None:
    """With the source beside the rungs, which has no divergence from itself."""
    rows = [row for row in (ladder.source, *ladder.measured) if row.perplexity is not None]
    if len(rows) < 3:
        return None
    series = [Series("rungs", [
        Point(row.size_bytes, row.perplexity.value, row.perplexity.low, row.perplexity.high,
              _name(row))
        for row in rows if row.perplexity is not None
    ])]  # fmt: skip
    caption = "Lower is better, with its 95 % interval. All are of one text, so differences are"
    return ScatterPlot(
        "Perplexity and size", Axis("file", kind="bytes"), Axis("perplexity"), series,
        Front("low", "low"), f"{caption} surer than the intervals say.",
    )  # fmt: skip


def _speed(ladder: Ladder) -> Section:
    rows = (ladder.source, *ladder.measured)
    plots: list[Block] = []
    for title, name in (
        (f"Token generation: tg{N_GEN}", "tg"),
        (f"Prompt processing: pp{N_PROMPT}", "pp"),
    ):
        bars = [_bar(row, speed) for row in rows if (speed := getattr(row, name)) is not None]
        if bars:
            plots.append(BarPlot(title, _RATE, [BarSeries(name, bars)], _INTERVAL))
    points = [_traded(row) for row in ladder.measured if row.tg and row.mean_kld]
    if len(points) > 1:
        plots.append(ScatterPlot(
            "Quality and speed of generation", _RATE, Axis("KLD", "nats", log=True),
            [Series("rungs", points)], Front("high", "low"),
            "Further right is faster, further down is closer to the source.",
        ))  # fmt: skip
    return Section("Speed", plots)


def _traded(row: Measured) -> Point:
    assert row.tg is not None and row.mean_kld is not None
    kld = row.mean_kld
    return Point(row.tg.mean_tps, kld.value, kld.low, kld.high, _name(row))


def _bar(row: Measured, speed: Speed) -> Bar:
    noisy = f"noisy: {'; '.join(speed.noisy)}" if speed.noisy else ""
    return Bar(_name(row), speed.mean_tps, speed.low_tps, speed.high_tps, noisy)


def _name(row: Measured) -> str:
    return row.model if row.role != "made" else row.type or row.model


def _numbers(ladder: Ladder) -> Section:
    blocks: list[Block] = [ladder_table(ladder, wide=True)]
    if others := [text for row in ladder.siblings for text in row.elsewhere]:
        blocks.append(Note(f"* taken under other conditions: {'; '.join(others)}", "warn"))
    problems = [(r.type, r.failure) for r in ladder.rungs if r.failure is not None]
    problems += [(_name(row), text) for row in (ladder.source, *ladder.measured)
                 for text in row.failures]  # fmt: skip
    if problems:
        blocks.append(Table(("type", "what failed"), problems))
    if ladder.left_out:
        out = [(one.type, one.why) for one in ladder.left_out]
        blocks.append(Table(("left out", "why"), out))
    if ladder.imatrix is not None:
        blocks.append(Fields([("importance matrix", ladder.imatrix)]))
    intro = (
        "± is the standard error by context, [ ] the 95 % interval of a mean speed; ! marks speeds"
        " that something else on the machine disturbed."
    )
    return Section("Every number", blocks, intro)
