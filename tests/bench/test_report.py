"""The report: what stands in it, and how it behaves in a real browser."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from localllm.bench.files.reading import read_runs
from localllm.bench.showing.report import report_page, write_report
from localllm.errors import FileGone, UsageProblem
from localllm.library.bench.case import BenchTest
from localllm.library.bench.record import LoadTimes
from localllm.ui.page import render_page
from tests.bench.runs import a_full_run, a_row, a_run, failed
from tests.support.browser import browser

EVIL = "</script><img src=x onerror=alert(1)>\u202e\"'&日本"


class Outline(HTMLParser):
    """Headings, figures and what would be asked of the network."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page(*runs: object, **more: object) -> str:
    return render_page(report_page(runs, **more))  # type: ignore[arg-type]


def test_a_full_run_has_every_section() -> None:
    text = page(a_full_run("a"), a_full_run("b"), a_full_run("c", started_at=0.0))
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == [
        "Speed", "Sweeps", "Memory and loading", "Latency", "Several sequences at once",
        "Every number", "Conditions",
    ]  # fmt: skip
    assert "does_not_fit" in text and "others kept 1.4 cores busy" in text
    assert "bench-box" in text and "3.10 GHz" in text and "61 °C" in text


def test_a_small_run_has_no_empty_section() -> None:
    text = page(a_run(a_row(memory=(), evidence=None), machine=None))
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["Speed", "Every number", "Conditions"]


def test_nothing_but_failures_is_a_page_too() -> None:
    text = page(a_run(failed(a_row())))
    assert "1 of 1 rows failed" in text
    assert page(a_run(rows=()))


def test_the_trend_takes_earlier_runs_of_the_same_tests_alone() -> None:
    now = a_run(a_row(), id=9)
    before = [a_run(a_row(rates=(50.0, 51.0)), id=n, started_at=n * 86400.0) for n in (1, 2)]
    other = a_run(a_row(test=BenchTest(512, 0)), id=3, started_at=3.0)
    elsewhere = a_run(a_row(), id=4, machine=replace(now.machine, fingerprint="other"))  # type: ignore[type-var]
    made = report_page([now], [now, *before, other, elsewhere])
    (section,) = [s for s in made.sections if s.title == "History"]
    (plot,) = section.blocks
    (series,) = plot.series  # type: ignore[union-attr]
    assert [(p.x, p.y) for p in series.points] == [  # type: ignore[union-attr]
        (86400.0, 50.5), (172800.0, 50.5), (now.started_at, 100.0)
    ]  # fmt: skip


def test_names_are_only_text() -> None:
    run = replace(a_full_run(EVIL), command=EVIL, tag=EVIL, versions={EVIL: EVIL})
    text = page(run)
    outline = Outline(text)
    assert "img" not in outline.tags
    assert outline.tags.count("script") == 3  # two of data, one that runs
    assert "\u202e" not in text.replace("\\u202e", "")
    assert "&lt;img src=x" in text


def test_it_asks_for_nothing_and_is_small() -> None:
    text = page(a_full_run())
    assert set(Outline(text).links) <= {"data:,"} | {f"#s{n}" for n in range(9)}
    assert "default-src 'none'" in text
    assert "sourceMappingURL" not in text
    assert len(text.encode()) < 400_000


def test_the_data_in_the_page_is_the_runs(tmp_path: Path) -> None:
    runs = (a_full_run(EVIL), a_full_run("b"))
    text = page(*runs)
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(json.loads(data)), encoding="utf-8")
    assert read_runs(file) == runs


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("older")
    write_report([a_full_run()], path)
    assert path.read_bytes().startswith(b"<!doctype html>\n") and b"\r" not in path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(UsageProblem, match="folder"):
        write_report([a_full_run()], tmp_path)
    with pytest.raises(FileGone, match="no folder"):
        write_report([a_full_run()], tmp_path / "none" / "x.html")


# --- in a browser -----------------------------------------------------------------------------

PIXELS = """
[...document.querySelectorAll('canvas')].map((canvas) => {
  const { width, height } = canvas;
  if (!width || !height) return 0;
  const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
  const colours = new Set();
  for (let i = 0; i < data.length; i += 4) {
    if (data[i + 3] > 200) colours.add((data[i] >> 4) + ',' + (data[i + 1] >> 4) + ',' + (data[i + 2] >> 4));
  }
  return colours.size;
})
"""  # noqa: E501


def test_a_browser_draws_every_plot_and_asks_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    runs = [a_full_run(EVIL, id=1), *(a_full_run(f"m{n}", id=n) for n in (2, 3, 4))]
    sized = [replace(run, rows=tuple(replace(r, model_size=r.model_size * n) for r in run.rows))
             for n, run in enumerate(runs, start=1)]  # fmt: skip
    earlier = [a_full_run("m2", id=20 + n, started_at=n * 86400.0) for n in range(4)]
    write_report(sized, path, history=[replace(e, rows=sized[1].rows) for e in earlier])
    with browser(tmp_path) as page:
        page.open(path)
        page.wait("document.documentElement.dataset.drawn !== undefined")
        n_figures = page.evaluate("document.querySelectorAll('figure').length")
        assert n_figures >= 11
        colours = page.evaluate(PIXELS)
        assert len(colours) == n_figures
        assert all(count >= 3 for count in colours), colours  # axes, text and bars
        assert page.evaluate("document.querySelectorAll('figure table tbody tr').length") > 40
        assert page.evaluate("document.body.scrollWidth <= innerWidth")
        _legend_and_theme(page)
        page.call("Emulation.setDeviceMetricsOverride", width=380, height=800,
                  deviceScaleFactor=1, mobile=True)  # fmt: skip
        page.wait("document.documentElement.scrollWidth <= 380")
        assert page.call("Page.printToPDF")["data"]
        assert page.evaluate("typeof alert === 'function' && window.hacked === undefined")
    assert page.problems == []
    assert page.requests == []


def _legend_and_theme(page: object) -> None:
    evaluate = page.evaluate  # type: ignore[attr-defined]
    button = "document.querySelector('.legend button')"
    pixels = f"{button}.closest('figure').querySelector('canvas').toDataURL()"
    theme = "document.getElementById('theme').click()"
    before = evaluate(pixels)
    evaluate(f"{button}.click()")
    assert evaluate(f"{button}.getAttribute('aria-pressed')") == "false"
    hidden = evaluate(pixels)
    assert hidden != before
    evaluate(theme)
    assert evaluate("document.documentElement.dataset.theme") == "dark"
    assert evaluate(pixels) != hidden
    dark = evaluate("getComputedStyle(document.body).backgroundColor")
    evaluate(theme)
    assert evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_dragging_zooms_and_the_button_goes_back(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report([a_full_run()], path)
    with browser(tmp_path) as page:
        page.open(path)
        page.wait("document.documentElement.dataset.drawn !== undefined")
        page.evaluate("document.querySelector('#s1 canvas').scrollIntoView({block: 'center'})")
        box = page.evaluate(
            "(() => { const b = document.querySelector('#s1 canvas').getBoundingClientRect();"
            " return [b.x, b.y, b.width, b.height]; })()"
        )
        x, y, width, height = box
        ends = [(x + width * 0.3, y + height * 0.3), (x + width * 0.6, y + height * 0.6)]
        kinds = ("mousePressed", "mouseMoved", "mouseReleased")
        for kind, (at_x, at_y) in zip(kinds, (ends[0], ends[1], ends[1]), strict=True):
            page.call("Input.dispatchMouseEvent", type=kind, x=at_x, y=at_y, button="left",
                      buttons=0 if kind == "mouseReleased" else 1, clickCount=1)  # fmt: skip
        page.wait("document.querySelector('#s1 figure').classList.contains('zoomed')")
        page.evaluate("document.querySelector('#s1 figcaption button').click()")
        assert not page.evaluate("document.querySelector('#s1 figure').className.includes('zoom')")
    assert page.problems == []


def test_sweeps_at_several_depths_are_told_apart() -> None:
    tests = [BenchTest(p, 0, d) for p in (64, 128, 256) for d in (0, 512)]
    made = report_page([a_run(*(a_row(test=test) for test in tests))])
    (section,) = [s for s in made.sections if s.title == "Sweeps"]
    (plot,) = section.blocks
    assert [s.name for s in plot.series] == ["tiny", "tiny @ d512"]  # type: ignore[union-attr]
    assert [[p.x for p in s.points] for s in plot.series] == [[64, 128, 256]] * 2  # type: ignore[union-attr]


def test_why_there_is_no_bar_stands_under_the_plot() -> None:
    load = LoadTimes((), (0.8, 0.9), "the system may not drop its cache")
    text = page(a_run(load=load))
    assert json.loads(re.findall(r"id=\"figures\">(.*?)<", text)[0])[-1]["named"] is True
    assert "tiny cold: the system may not drop its cache" in text
