"""How a run is shown, on the terminal and in pages, whether it tuned or began from nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from localllm.ui import Table
from localllm.ui.figure import Axis, LinePlot, Point, Series
from localllm.ui.page import Folded, Section
from localllm.ui.view import AnyCell

STOPPED = {"done": "all steps", "early": "no better any more"}

Curve = Sequence[tuple[int, float]]  # step, nats


def loss_plot(training: Curve, held_out: Curve) -> LinePlot | None:
    """The losses over the steps; None where there are hardly any."""
    series = [
        Series(name, [Point(step, loss) for step, loss in points])
        for name, points in (("training", training), ("held out", held_out))
        if len(points) > 1
    ]
    if not series or len(series[0].points) < 2:
        return None
    return LinePlot("Loss", Axis("step"), Axis("loss", "nats"), series)


def short(text: str, *, tail: bool = False, most: int = 160) -> str:
    """On one line, at most so many characters of its beginning, or of its end."""
    joined = " ".join(text.split())
    if len(joined) <= most:
        return joined
    return f"...{joined[-most:]}" if tail else f"{joined[:most]}..."


def recipe_section(recipe: Mapping[str, Any]) -> Section:
    rows: list[list[AnyCell]] = [[key, _plain(value)] for key, value in recipe.items()]
    return Section("Recipe", [Folded("All options", Table(["option", "value"], rows))])


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
