"""A gate's verdict as JUnit XML, which CI systems show as tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from localllm.bench.comparing.gate import GateReport, GateRow
from localllm.bench.comparing.summary import row_name, row_text

# What XML 1.0 has no place for.
_UNREADABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(reports: Sequence[GateReport]) -> str:
    """One test suite a model, one test case a row of the baseline.

    A regression, a row that fails now and one that is missing are failures; a row that has no
    figures in the baseline is skipped. What is undecided passes, and says so in its output,
    unless the gate was strict.
    """
    root = ElementTree.Element("testsuites", name="localllm bench gate")
    for report in reports:
        failures = sum(bool(row.problems) for row in report.rows)
        skipped = sum(row.outcome == "skipped" for row in report.rows)
        suite = ElementTree.SubElement(
            root, "testsuite", name=_clean(report.model), tests=str(len(report.rows)),
            failures=str(failures), errors="0", skipped=str(skipped), time=f"{report.took_s:.3f}",
        )  # fmt: skip
        for row in report.rows:
            _case(suite, report, row)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _case(suite: ElementTree.Element, report: GateReport, row: GateRow) -> None:
    seconds = sum(row.new.samples_ns) / 1e9 if row.new else 0.0
    case = ElementTree.SubElement(
        suite, "testcase", classname=_clean(f"bench.{report.model}"), name=_clean(row_name(row)),
        time=f"{seconds:.3f}",
    )  # fmt: skip
    if row.problems:
        failure = ElementTree.SubElement(
            case, "failure", type=row.outcome, message=_clean("; ".join(row.problems))
        )
        failure.text = _clean("\n".join((*row.problems, *row.explained)))
    elif row.outcome == "skipped":
        why = "; ".join(row.explained)
        ElementTree.SubElement(case, "skipped", message=_clean(why))
    ElementTree.SubElement(case, "system-out").text = _clean(row_text(row))


def _clean(text: str) -> str:
    return _UNREADABLE.sub("\ufffd", text)
