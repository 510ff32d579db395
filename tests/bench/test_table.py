"""The table for people: notes say which rows they are about."""

from __future__ import annotations

from dataclasses import replace

from localllm.bench.showing.table import table
from localllm.library.bench.case import BenchTest
from localllm.library.bench.record import BenchRow, Evidence
from localllm.ui.view import Note
from tests.bench.runs import a_row, a_run


def noisy(row: BenchRow, reason: str = "others kept 1.4 cores busy") -> BenchRow:
    return replace(row, evidence=Evidence(1.0, noisy=(reason,)))


def notes(*runs: object) -> list[str]:
    view = table(runs)  # type: ignore[arg-type]
    assert isinstance(view, list)
    return [part.text for part in view if isinstance(part, Note) and "noisy" in part.text]


def test_of_several_models_a_noisy_row_is_named_with_its_own() -> None:
    pp, tg = BenchTest(512, 0, 0), BenchTest(0, 128, 0)
    runs = (
        a_run(a_row("small", pp), noisy(a_row("small", tg))),
        a_run(a_row("large", pp), a_row("large", tg)),
    )
    assert notes(*runs) == ["△ noisy (small tg128): others kept 1.4 cores busy"]
    assert notes(runs[0]) == ["△ noisy (tg128): others kept 1.4 cores busy"]


def test_rows_that_differ_in_a_setting_are_named_by_it() -> None:
    tg = BenchTest(0, 128, 0)
    rows = [replace(a_row("m", tg), n_threads=n) for n in (1, 2)]
    assert notes(a_run(rows[0], noisy(rows[1]))) == [
        "△ noisy (tg128 threads 2): others kept 1.4 cores busy"
    ]


def test_many_noisy_rows_make_a_short_note() -> None:
    rows = [a_row("m", BenchTest(0, n, 0)) for n in range(1, 9)]
    assert notes(a_run(rows[0], *map(noisy, rows[1:]))) == [
        "△ noisy (tg2, tg3, tg4, tg5, 3 more): others kept 1.4 cores busy"
    ]
    assert notes(a_run(*map(noisy, rows))) == ["△ noisy (all rows): others kept 1.4 cores busy"]
