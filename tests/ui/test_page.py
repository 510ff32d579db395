"""The parts of a page, and what it is made of."""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from pathlib import Path

from localllm.ui import Bytes, Fields, Note, Rate, Table
from localllm.ui.figure import (
    Axis,
    Bar,
    BarPlot,
    BarSeries,
    Front,
    LinePlot,
    Point,
    ScatterPlot,
    Series,
)
from localllm.ui.page import Folded, Page, Section, render_page
from localllm.ui.page_figure import description, figure_table
from localllm.ui.view import Toned
from tests.support.browser import browser

ASSETS = Path(str(resources.files("localllm.ui"))) / "assets"


def page(*blocks: object) -> str:
    return render_page(Page("a < b", "x & y", [Section("s", blocks)]))  # type: ignore[arg-type]


def test_the_vendored_files_are_those_of_the_list() -> None:
    listed = re.findall(r"^\| `([\w.-]+)`.*\| `([0-9a-f]{64})` \|$",
                        (ASSETS / "README.md").read_text(), re.MULTILINE)  # fmt: skip
    assert {name for name, _ in listed} == {p.name for p in ASSETS.glob("*.min.js")}
    for name, digest in listed:
        assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == digest
        licences = list(ASSETS.glob(f"{name.split('.')[0]}.LICENSE*"))
        assert len(licences) == 1 and "MIT" in licences[0].read_text()


def test_tables_escape_and_set_figures_to_the_right() -> None:
    text = page(Table(("<name>", "size"), [("a&b", Bytes(1024)), (Toned("c", "bad"), None)]))
    assert '<th scope="col">&lt;name&gt;</th><th scope="col" class=n>size</th>' in text
    assert '<td>a&amp;b</td><td class="n">1 KiB</td>' in text
    assert '<td class="bad">c</td><td class="n">-</td>' in text


def test_every_kind_of_block() -> None:
    text = page(
        Fields([("tag", "x"), ("none", None)]), Note("careful", "warn"),
        Folded("more", Table(("a",), [("b",)])), Table(("a",), [], empty="nothing here"),
    )  # fmt: skip
    assert '<th scope="row">tag</th><td>x</td>' in text and "<td>none" not in text
    assert '<th scope="row">none' not in text
    assert '<p class="note warn">careful</p>' in text
    assert "<details><summary>more</summary>" in text
    assert "nothing here" in text
    assert "<title>a &lt; b</title>" in text and 'id="save"' not in text


def test_numbers_are_scaled_for_the_script() -> None:
    plot = LinePlot(
        "t", Axis("size", kind="bytes"), Axis("rate", "t/s", log=True),
        [Series("s", [Point(2 << 30, 0.0), Point(4 << 30, 5.0, 4.0, 6.0), Point(1 << 30, 7.0)])],
    )  # fmt: skip
    made = description(plot)
    assert made["x"]["title"] == "size (GiB)"
    # by x, without what a logarithmic axis cannot show
    assert [(p["x"], p["y"]) for p in made["series"][0]["points"]] == [(1.0, 7.0), (4.0, 5.0)]
    table = figure_table(plot)
    assert table.columns == ["series", "size", "rate (t/s)", "low", "high"]
    assert table.rows[1][:3] == ["s", Bytes(2 << 30), 0.0]


def test_a_series_without_a_bar_is_in_the_table_alone() -> None:
    plot = BarPlot("t", Axis("rate", "t/s"), [
        BarSeries("good", [Bar("a", 1.0)]), BarSeries("bad", [Bar("a", None, note="crashed")]),
    ])  # fmt: skip
    assert [s["name"] for s in description(plot)["series"]] == ["good"]
    assert ["bad", "a", None, "crashed"] in [list(row) for row in figure_table(plot).rows]


def test_the_front_is_what_python_says() -> None:
    plot = ScatterPlot(
        "t", Axis("x"), Axis("y"), [Series("s", [Point(1, 3), Point(2, 4), Point(3, 1)])],
        Front("low", "low"),
    )  # fmt: skip
    assert description(plot)["front"] == [{"x": 1, "y": 3}, {"x": 3, "y": 1}]


def test_rates_read_as_elsewhere() -> None:
    assert ">123.5<" in page(Table(("t/s",), [(Rate(123.46, ""),)]))


def test_all_plots_draw_in_a_browser(tmp_path: Path) -> None:
    times = [1_795_000_000 + n * 86400 for n in range(40)]
    blocks = [
        LinePlot("dense", Axis("step"), Axis("loss", log=True),
                 [Series("train", [Point(n, 10 / (n + 1), 9 / (n + 1)) for n in range(500)])]),
        LinePlot("trend", Axis("when", kind="moment"), Axis("rate", "t/s"),
                 [Series(f"s{k}", [Point(t, k + t % 7) for t in times]) for k in range(10)]),
        ScatterPlot("front", Axis("size", kind="bytes"), Axis("KLD", log=True),
                    [Series("", [Point(n << 28, 1 / n, label=f"Q{n}") for n in range(1, 9)])],
                    Front("low", "low")),
        BarPlot("empty", Axis("x"), [BarSeries("s", [])]),
        LinePlot("one point", Axis("x", log=True), Axis("y"), [Series("", [Point(1, 1)])]),
    ]  # fmt: skip
    path = tmp_path / "page.html"
    path.write_text(page(*blocks), encoding="utf-8")
    with browser(tmp_path) as shown:
        shown.open(path)
        shown.wait("document.documentElement.dataset.drawn !== undefined")
        assert shown.evaluate("document.documentElement.dataset.drawn") == "5"
        assert shown.evaluate("document.querySelectorAll('.legend button').length") == 10 + 2
    assert shown.problems == []
    assert shown.requests == []
