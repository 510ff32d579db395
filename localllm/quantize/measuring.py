"""`--measure` and `--ladder` on the command line: what was asked for, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import DoesNotFit, UsageProblem
from localllm.library.quality.text import read_texts
from localllm.quantize.requests import Given
from localllm.registry import Registry
from localllm.ui import Sink

if TYPE_CHECKING:
    from localllm.quantize.measured.measurer import MeasureOptions


@dataclass(frozen=True)
class Asked:
    """The options under "Measure the result", each as it was said."""

    measure: bool = False
    ladder: bool = False
    texts: tuple[Path, ...] = ()
    chunks: int | None = None
    again: bool = False
    chart: bool | None = None
    report: Path | None = None
    keep: str = "all"
    require_fit: bool = False
    n_ctx: int | None = None

    @property
    def options(self) -> MeasureOptions | None:
        """How to measure, where that was asked for."""
        if not self.measure:
            return None
        from localllm.quantize.measured.measurer import MeasureOptions

        return MeasureOptions(self.texts, self.chunks, again=self.again)

    def check(
        self, *, dry_run: bool, save_plan: Path | None, fits: bool = False, searches: bool = False
    ) -> None:
        """Raise UsageProblem for options that mean nothing as they stand. `fits`: something
        else on the command line takes --ctx; `searches`: something else takes --again."""
        for_both = {"--measure-text": bool(self.texts), "--measure-chunks": self.chunks is not None,
                    "--again": self.again and not searches}  # fmt: skip
        of_ladder = {"--chart": self.chart is not None, "--report": self.report is not None,
                     "--keep": self.keep != "all", "--require-fit": self.require_fit,
                     "--ctx": self.n_ctx is not None and not fits}  # fmt: skip
        for option, said in for_both.items():
            if said and not (self.measure or self.ladder):
                raise UsageProblem(f"{option} goes with --measure or --ladder")
        for option, said in of_ladder.items():
            if said and not self.ladder:
                raise UsageProblem(f"{option} goes with --ladder")
        if self.measure and not self.ladder and dry_run:
            raise UsageProblem("--measure measures what was made, and --dry-run makes nothing")
        if self.ladder and save_plan is not None:
            raise UsageProblem("--save-plan is for one model, and a ladder makes several")
        if self.report is not None and dry_run:
            raise UsageProblem("--report shows what was measured, and --dry-run measures nothing")


def show_measured(
    model: str, given: Given, asked: Asked, registry: Registry, sink: Sink,
    *, save_plan: Path | None = None,
) -> None:  # fmt: skip
    """Make, measure and show."""
    from localllm.quantize.measured.run import run_measured
    from localllm.quantize.measured.view import set_view

    options = asked.options
    assert options is not None
    read_texts(asked.texts)  # a text that is none is said before the work
    done = run_measured(model, given, options, registry, sink, save_plan=save_plan)
    error = done.error
    sink.show(done.result, lambda r: set_view(r.measured), ok=error is None, error=error)


def show_ladder(
    model: str, given: Given, asked: Asked, registry: Registry, sink: Sink, *, dry_run: bool
) -> None:
    """Climb and show; the report is written whatever the outcome, if anything was measured."""
    from localllm.quantize.ladder.build import climb
    from localllm.quantize.ladder.ladder import LadderOptions
    from localllm.quantize.ladder.report import write_report
    from localllm.quantize.ladder.view import ladder_view
    from localllm.quantize.measured.measurer import MeasureOptions
    from localllm.ui.outfile import check_place

    if asked.report is not None:
        check_place(asked.report)  # before hours of work
    options = LadderOptions(asked.keep, asked.n_ctx)  # type: ignore[arg-type]
    measuring = MeasureOptions(asked.texts, asked.chunks, again=asked.again)
    read_texts(asked.texts)
    done = climb(model, given, options, measuring, registry, sink, dry_run=dry_run)
    if asked.report is not None and done.ladder.measured:
        write_report(done.ladder, asked.report)
        sink.note(f"the report: {asked.report}")
    error = done.error
    if error is None and asked.require_fit and done.ladder.nothing_fits is not None:
        error = DoesNotFit(done.ladder.nothing_fits, "a shorter --ctx, or smaller types")
    chart = sink.is_terminal if asked.chart is None else asked.chart
    sink.show(
        done.ladder, lambda ladder: ladder_view(ladder, chart=chart, dry_run=dry_run),
        ok=error is None, error=error,
    )  # fmt: skip
