"""`bench --chart`: the figures on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from localllm.bench.showing.figures import all_figures
from localllm.library.bench.record import BenchRun
from localllm.ui import View
from localllm.ui.view import Note


def chart_view(runs: Sequence[BenchRun]) -> View:
    """Plots of what `runs` measured, or a note where there is nothing to plot."""
    return all_figures(runs) or Note("nothing was measured that could be drawn")
