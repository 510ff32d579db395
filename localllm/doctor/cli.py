"""doctor: what is wrong here, and what mends it."""

from __future__ import annotations

from typing import Annotated

import typer

from localllm import config
from localllm.doctor.checks import Check, Report, examine
from localllm.errors import LocalLLMError
from localllm.ui import Sink, Table, View
from localllm.ui.view import Note, Toned

_TONES = {"ok": "good", "warning": "warn", "problem": "bad"}


def doctor_command(
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not try to reach the sources.")
    ] = False,
    *,
    sink: Sink,
) -> None:
    """Check build, devices, disk, registry and sources, and say what to mend."""
    report = examine(config.load(), offline=offline)
    error = None
    if report.problems:
        first = next(c for c in report.checks if c.status == "problem")
        error = LocalLLMError(f"{report.problems} problems; first: {first.message}", first.mend)
    sink.show(report, _report, ok=error is None, error=error)


def _report(report: Report) -> View:
    rows = [(c.area, Toned(c.status, _TONES[c.status]), c.message) for c in report.checks]  # type: ignore[arg-type]
    mends = [_mend(c) for c in report.checks if c.mend and c.status != "ok"]
    return [Table(("area", "status", "finding"), rows), *mends]


def _mend(check: Check) -> Note:
    return Note(f"{check.area}: {check.message}\n  try: {check.mend}", "warn")
