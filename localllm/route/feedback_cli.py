"""route feedback, retrain, rollback, report."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from localllm.errors import UsageProblem
from localllm.registry import Registry
from localllm.registry.decisions import Decided, Decisions
from localllm.route.cli import Name
from localllm.route.naming import parse_named
from localllm.route.opening import open_router_named
from localllm.route.reporting import Period, Report, report
from localllm.route.retraining import Retrained, retrain, roll_back
from localllm.route.teaching import Columns
from localllm.route.train_cli import Data, StrongColumn, WeakColumn
from localllm.ui import Count, Fields, Heading, Moment, Note, Percent, Sink, Table, View
from localllm.ui.view import AnyCell, Part

_SECONDS = {"h": 3600.0, "d": 86_400.0, "w": 604_800.0}


@dataclass(frozen=True)
class RolledBack:
    router: str
    before: int
    version: int


def feedback_command(
    number: Annotated[int, typer.Argument(metavar="ID", help="The decision's number.")],
    verdict: Annotated[
        str, typer.Argument(metavar="good|bad|MEMBER", help="Or the member that is better.")
    ],
    *,
    sink: Sink,
) -> None:
    """Say what you think of a routed answer."""
    done = Decisions(Registry.open()).judge(number, verdict, "owner")
    sink.show(done, _judged_view)


def retrain_command(
    name: Name,
    data: Data = None,
    weak: WeakColumn = None,
    strong: StrongColumn = None,
    force: Annotated[bool, typer.Option("--force", help="Replace it whatever comes out.")] = False,
    *,
    sink: Sink,
) -> None:
    """Teach a router again with its feedback; kept only if better on feedback held out."""
    registry = Registry.open()
    opened = open_router_named(registry, parse_named(name).name, members=False)
    with sink.progress.steps(f"retrain {opened.name}", None):
        done = retrain(registry, opened, data or (), Columns(weak, strong), force=force)
    sink.show(done, _retrained_view)


def rollback_command(
    name: Name,
    number: Annotated[
        int | None, typer.Option("--to", min=1, help="A version; else the one before.")
    ] = None,
    *,
    sink: Sink,
) -> None:
    """Go back to an earlier version of a router."""
    named = parse_named(name).name
    before, after = roll_back(Registry.open(), named, number)
    sink.note(f"router {named}: version {after} is in use, {before} is kept")
    sink.show(RolledBack(named, before, after))


def report_command(
    name: Name,
    since: Annotated[
        str, typer.Option("--since", metavar="30d", help="How far back: 12h, 30d, 8w.")
    ] = "30d",
    every: Annotated[
        str, typer.Option("--every", metavar="1d", help="How long a period is: 1h, 1d, 1w.")
    ] = "1d",
    *,
    sink: Sink,
) -> None:
    """Show what a router did: shares, cost saved, quality by period, drift of what is asked."""
    registry = Registry.open()
    opened = open_router_named(registry, parse_named(name).name, members=False)
    begin = time.time() - _seconds(since, "--since")
    every_s = _seconds(every, "--every")
    if every_s > _SECONDS["d"] and every_s % _SECONDS["d"]:
        raise UsageProblem(f"--every {every} is more than a day, and not whole days", "--every 2d")
    found = report(registry, opened, since=begin, every_s=every_s)
    sink.show(found, _report_view)


def _seconds(text: str, option: str) -> float:
    found = re.fullmatch(r"(\d{1,5})([hdw])", text)
    if found is None or int(found[1]) == 0:
        raise UsageProblem(f"{option} {text!r} is no time", f"{option} 12h, 30d or 8w")
    return int(found[1]) * _SECONDS[found[2]]


def _judged_view(done: Decided) -> View:
    votes = ", ".join(f"{v.verdict} ({v.source})" for v in done.votes)
    return Fields([("decision", done.id), ("router", done.router), ("answered by", done.member),
                   ("votes", votes)])  # fmt: skip


def _retrained_view(done: Retrained) -> View:
    rows: list[tuple[str, AnyCell]] = [
        ("router", done.router),
        ("version in use", done.version),
        ("replaced", "yes" if done.replaced else "no"),
        ("why", done.why),
        ("votes", done.n_votes),
        ("say nothing of the pair", done.n_left_out or None),
        ("over their source's share", done.n_capped or None),
        ("trained on", Count(done.n_trained)),
        ("judged by", done.n_judged),
        ("loss before, after", f"{done.loss_before:.4f}, {done.loss_after:.4f}"),
        ("better in", Percent(done.better)),
    ]
    return Fields(rows)


def _report_view(found: Report) -> View:
    if not found.total.n and not found.total.n_compared:
        return Note("it decided nothing in this time")
    columns = ("from", "n", "members", "strong", "cost", "saved", "good", "bad", "handed on",
               "unanswered", "guarded", "compared")  # fmt: skip
    rows: Sequence[Sequence[AnyCell]] = [_row(one) for one in found.periods]
    total = ["all", *_row(found.total)[1:]]
    view: list[Part] = [Table(columns, [*rows, total])]
    if found.drift is not None:
        d = found.drift
        view += [
            Heading("Drift of what is asked, against the training prompts"),
            Fields([("verdict", d.verdict), ("prompts", Count(d.n)),
                    ("of probabilities", d.probability), ("of lengths", d.length),
                    ("of scripts", d.script)]),
            Note("population stability index: under 0.1 nothing moved, over 0.25 it did"),
        ]  # fmt: skip
    elif found.why_no_drift:
        view.append(Note(f"no drift: {found.why_no_drift}"))
    return view


def _row(one: Period) -> list[AnyCell]:
    members = ", ".join(f"{name} {n}" for name, n in one.members.items())
    return [
        Moment(one.begins_at), Count(one.n), members or "-",
        None if one.strong_share is None else Percent(one.strong_share), one.cost, one.saved,
        one.n_good, one.n_bad, one.n_handed_on, one.n_unanswered, one.n_guarded,
        ", ".join(f"{name} {n}" for name, n in one.preferred.items()) or one.n_compared,
    ]  # fmt: skip
