"""route eval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localllm.errors import UsageProblem
from localllm.registry import Registry
from localllm.route.cascades.teaching import IDENTITY
from localllm.route.cli import Name
from localllm.route.evaluating import (
    ALL,
    Evaluation,
    GroupFigures,
    evaluate_fresh,
    evaluate_stored,
    evaluate_trained,
)
from localllm.route.measuring.intervals import Difference, Figure
from localllm.route.naming import parse_named
from localllm.route.opening import OpenRouter, open_router_named
from localllm.route.pool.reading import parse_spec
from localllm.route.pool.steps import CascadeStep
from localllm.route.teaching import Columns, helper_named, read_material, trained_step, trainer_of
from localllm.route.train_cli import Data, StrongColumn, WeakColumn
from localllm.route.training import train_router
from localllm.ui import Count, Note, Percent, Sink, Table, View
from localllm.ui.figure import Axis, LinePlot, Point, Series
from localllm.ui.outfile import check_place, replace_file
from localllm.ui.page import Block, Page, Section, render_page
from localllm.ui.view import AnyCell, Part, Toned

_SURE = 0.05  # two-sided


def eval_command(
    name: Name,
    data: Data = None,
    weak: WeakColumn = None,
    strong: StrongColumn = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE.html", help="Write it as a page of its own."),
    ] = None,
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="Draw the curve.")] = True,
    *,
    sink: Sink,
) -> None:
    """Measure what a router is worth, on prompts that did not train what is measured."""
    if report is not None:
        check_place(report)
    opened = open_router_named(Registry.open(), parse_named(name).name, members=False)
    if opened.router is None and not isinstance(opened.spec.last, CascadeStep):
        raise UsageProblem(
            f"router {opened.name} was not trained",
            f"localllm route train {opened.name} --data FILE",
        )
    with sink.progress.steps(f"evaluate {opened.name}", None):
        found = _evaluated(opened, data, Columns(weak, strong), sink)
    if report is not None:
        replace_file(report, render_page(_page(found)))
        sink.note(f"written to {report}")
    sink.show(found, lambda e: _view(e, plot))


def _evaluated(
    opened: OpenRouter, data: list[Path] | None, columns: Columns, sink: Sink
) -> Evaluation:
    if isinstance(opened.spec.last, CascadeStep):
        if data:
            raise UsageProblem(
                "a cascade is measured by the answers that it was fitted to, cross-validated",
                f"localllm route eval {opened.name}",
            )
        if opened.version.learned is None:
            raise UsageProblem(
                "this cascade's signals weigh what was set by hand: there are no judged answers",
                f"localllm route label {opened.name} --prompts FILE --out FILE, then route train",
            )
        return evaluate_stored(opened.version, opened.priced, IDENTITY)
    assert opened.router is not None
    if not data:
        return evaluate_stored(opened.version, opened.priced, opened.router.calibration)
    material = read_material(data, opened.spec, columns)
    fresh = evaluate_fresh(opened.version, opened.priced, opened.router, material.contrast)
    if fresh is not None:
        return fresh
    sink.note("these prompts trained the router: it is trained again for each fifth without it")
    made = parse_spec(opened.version.text(), str(opened.version.path))[1]
    kind, helper = helper_named(made)
    step = trained_step(opened.spec)
    registry = Registry.open()
    train = trainer_of(kind, helper, material, registry)
    trained = train_router(material.contrast, step.weak, step.strong, train)
    return evaluate_trained(opened.version, opened.priced, trained, material.contrast)


def _view(found: Evaluation, plot: bool) -> View:
    view: list[Part] = [_table(found)]
    whole = found.groups[0]
    if plot and whole.curve:
        view.append(_plot(found, whole))
    view.append(Note(_on(found)))
    view += [Note(f"{one.name}: {one.why_none}", "warn") for one in found.groups if one.why_none]
    return view


def _on(found: Evaluation) -> str:
    said = f"{found.n_prompts} prompts, {found.on}; intervals are 95 %"
    if found.n_left_out:
        said += f"; {found.n_left_out} prompts that trained it are left out"
    return said


def _table(found: Evaluation) -> Table:
    columns = ("prompts of", "n", found.weak, found.strong, "APGR", "CPT 50 %", "CPT 80 %",
               "APGR - random", "APGR - length", f"quality at {found.threshold:.3g}",
               "strong share", "cost")  # fmt: skip
    return Table(columns, [_row(one) for one in found.groups])


def _row(one: GroupFigures) -> list[AnyCell]:
    against = one.against or {}
    at = one.at_threshold
    name = one.name if one.kind == ALL else f"{one.name} ({one.kind})"
    return [
        name, Count(one.n_prompts), Percent(one.quality_weak), Percent(one.quality_strong),
        _figure(one.apgr), _figure(one.cpt50), _figure(one.cpt80),
        _difference(against.get("random")), _difference(against.get("length")),
        None if at is None else Percent(at.quality.value),
        None if at is None else Percent(at.strong_share.value),
        None if at is None or at.cost is None else at.cost.value,
    ]  # fmt: skip


def _figure(figure: Figure | None) -> AnyCell:
    if figure is None:
        return None
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def _difference(found: Difference | None) -> AnyCell:
    if found is None:
        return None
    text = f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
    if found.p_value >= _SURE:
        return Toned(text, "dim")
    return Toned(text, "good" if found.value > 0 else "bad")


def _plot(found: Evaluation, one: GroupFigures) -> LinePlot:
    ends = (Point(0.0, one.quality_weak), Point(1.0, one.quality_strong))
    at = one.at_threshold
    series = [
        Series("router", [Point(x, y) for x, y in one.curve]),
        Series("length", [Point(x, y) for x, y in one.length_curve]),
        Series("random", ends),
    ]
    if at is not None:
        series.append(Series("threshold", [Point(at.strong_share.value, at.quality.value)]))
    return LinePlot(
        f"{found.router} on {one.name}: quality by the share of calls to {found.strong}",
        Axis("share of strong calls"), Axis("quality"), series,
        "random is what every router without skill gives at expectation",
    )  # fmt: skip


def _page(found: Evaluation) -> Page:
    sections = [
        Section("Figures", [_table(found), Note(_on(found))],
                "APGR is the mean part of the gap between the two members that is recovered, over "
                "all shares of strong calls; CPT is the share that recovers so much of it."),
    ]  # fmt: skip
    plots: list[Block] = [_plot(found, one) for one in found.groups if one.curve]
    if plots:
        sections.append(Section("Quality and share", plots))
    return Page(
        f"Router {found.router}", f"version {found.version}, {found.weak} or {found.strong}",
        sections, found, f"{found.router}.json",
    )  # fmt: skip
