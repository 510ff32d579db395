"""Plots of characters: what stands where, and that nothing breaks them."""

from __future__ import annotations

import io
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.ui.cells import cells, fitted
from localllm.ui.figure import (
    Axis,
    Bar,
    BarPlot,
    BarSeries,
    Figure,
    Front,
    LinePlot,
    Point,
    ScatterPlot,
    Series,
    pareto_front,
)
from localllm.ui.plot import draw, sparkline
from localllm.ui.render import plain, rich
from localllm.ui.scale import number, scale_of

RATE = Axis("rate", "t/s", from_zero=True)


def lines(figure: Figure, width: int = 80, ascii: bool = True) -> list[str]:
    return ["".join(text for text, _ in line) for line in draw(figure, width, ascii=ascii)]


def test_bars_are_as_long_as_their_values() -> None:
    bars = [Bar("a", 100.0), Bar("b", 50.0), Bar("c", 25.0), Bar("d", 0.0)]
    drawn = lines(BarPlot("speed", RATE, [BarSeries("", bars)]))
    lengths = [line.count("=") for line in drawn[2:]]
    assert lengths[0] / lengths[1] == pytest.approx(2, abs=0.1)
    assert lengths[0] / lengths[2] == pytest.approx(4, abs=0.2)
    assert lengths[3] == 0
    assert [line.split()[-1] for line in drawn[2:]] == ["100", "50", "25", "0"]
    exact = lines(BarPlot("speed", RATE, [BarSeries("", bars)]), ascii=False)
    assert exact[2].count("█") == pytest.approx(lengths[0], abs=1)


def test_an_interval_stands_where_its_bounds_are() -> None:
    bars = [Bar("a", 100.0, 80.0, 120.0), Bar("b", 40.0, 39.9, 40.1)]
    drawn = lines(BarPlot("", RATE, [BarSeries("", bars)]))
    whisker = re.search(r"\|-+\+-+\|", drawn[2])
    assert whisker is not None
    start = drawn[2].index("=")
    room = len(drawn[1])  # the unit's line is as wide as the bars
    assert room > 0
    low, high = whisker.start() - start, whisker.end() - start
    assert low / high == pytest.approx(80 / 120, abs=0.05)
    assert "[80, 120]" in drawn[2]
    assert "|" not in drawn[3]  # too narrow to be seen: only in figures
    assert "[39.9, 40.1]" in drawn[3]


def test_a_bar_without_a_value_says_why() -> None:
    drawn = lines(
        BarPlot("", RATE, [BarSeries("", [Bar("a", 1.0), Bar("b", None, note="crashed")])])
    )
    assert drawn[3].split() == ["b", "-"]
    assert drawn[4].strip() == "crashed"


def test_series_stand_together_by_label() -> None:
    two = [BarSeries("pp", [Bar("a", 2.0), Bar("b", 1.0)]), BarSeries("tg", [Bar("a", 1.0)])]
    drawn = lines(BarPlot("", RATE, two))[2:]
    assert [re.findall(r"[a-z]+", line) for line in drawn] == [["a", "pp"], ["tg"], ["b", "pp"]]
    assert [line.split()[-1] for line in drawn] == ["2", "1", "1"]


def test_points_stand_where_they_are() -> None:
    points = [Point(0, 0), Point(5, 50), Point(10, 100)]
    figure = ScatterPlot("", Axis("x"), Axis("y"), [Series("", points)])
    body = [line.partition("+")[2] or line.partition("|")[2] for line in lines(figure)[2:16]]
    found = [(row, line.index("o")) for row, line in enumerate(body) if "o" in line]
    assert [row for row, _ in found] == [0, 6, 13] or [row for row, _ in found] == [0, 7, 13]
    width = found[0][1]
    assert found[2][1] == 0
    assert found[1][1] == pytest.approx(width / 2, abs=1)


def test_a_logarithmic_axis_spaces_factors_evenly() -> None:
    points = [Point(1, 1), Point(10, 1), Point(100, 1)]
    figure = ScatterPlot("", Axis("x", log=True), Axis("y"), [Series("", points)])
    (row,) = [line for line in lines(figure)[2:16] if "o" in line]
    at = [m.start() for m in re.finditer("o", row)]
    assert at[1] - at[0] == pytest.approx(at[2] - at[1], abs=1)
    assert "100" in lines(figure)[17]


def test_units_fit_the_values() -> None:
    figure = LinePlot(
        "", Axis("size", kind="bytes"), Axis("took", kind="seconds"),
        [Series("", [Point(1 << 30, 0.001), Point(4 << 30, 0.012)])],
    )  # fmt: skip
    drawn = lines(figure)
    assert drawn[1] == "took (ms)"
    assert drawn[18].strip() == "size (GiB)"


def test_the_front_is_marked() -> None:
    points = [Point(1, 5, label="a"), Point(2, 9, label="worse"), Point(3, 1, label="c")]
    figure = ScatterPlot("", Axis("x"), Axis("y"), [Series("", points)], Front("low", "low"))
    said = lines(figure)[-3:]
    assert ["front" in line for line in said] == [True, False, True]
    assert [line[0] for line in said] == ["1", "2", "3"]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12),
       st.sampled_from([Front(x, y) for x in ("low", "high") for y in ("low", "high")]))  # type: ignore[arg-type]  # fmt: skip
def test_the_front_is_what_nothing_beats(pairs: list[tuple[int, int]], front: Front) -> None:
    points = [Point(x, y) for x, y in pairs]
    x_sign, y_sign = (1 if better == "low" else -1 for better in (front.x, front.y))

    def beats(a: Point, b: Point) -> bool:
        ax, ay, bx, by = a.x * x_sign, a.y * y_sign, b.x * x_sign, b.y * y_sign
        return ax <= bx and ay <= by and (ax, ay) != (bx, by)

    expected = [p for p in points if not any(beats(q, p) for q in points)]
    assert sorted((p.x, p.y) for p in pareto_front(points, front)) == sorted(
        (p.x, p.y) for p in expected
    )


TEXT = st.text(max_size=30)
VALUE = st.floats(-1e12, 1e12) | st.sampled_from([0.0, 1e-30, 1e30, math.inf, math.nan])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, VALUE, VALUE, VALUE), max_size=6), st.integers(1, 200),
       st.booleans(), st.booleans())  # fmt: skip
def test_nothing_breaks_a_plot(
    rows: list[tuple[str, float, float, float]], width: int, ascii: bool, log: bool
) -> None:
    bars = [Bar(t, v, low, high, t) for t, v, low, high in rows if math.isfinite(v + low + high)]
    points = [Point(x, y, low, low, t) for t, x, y, low in rows if math.isfinite(x + y + low)]
    x, y = Axis("x\n", log=log), Axis("y", log=log)
    for figure in (
        BarPlot("t", y, [BarSeries("s", bars)]),
        LinePlot("t", x, y, [Series("a", points), Series("b", points[:2])]),
        ScatterPlot("t", x, y, [Series("a", points)], Front("low", "high")),
    ):
        for line in lines(figure, width, ascii)[1:]:
            assert not any(c.isprintable() is False and c != " " for c in line)
            if "[" not in line:
                assert cells(line) <= max(width, 40) + 32  # a legend's name may run over


@given(TEXT, st.integers(6, 40), st.booleans())
def test_a_label_has_the_width_it_is_given(text: str, width: int, ascii: bool) -> None:
    assert cells(fitted(text, width, ascii)) == width


def test_ticks_are_round_and_within() -> None:
    for low, high in ((0, 7), (3, 3), (-5, 17), (1e-9, 3e-9), (12345, 99999)):
        scale = scale_of(Axis("x"), [low, high])
        assert scale is not None
        ticks = scale.ticks(5)
        assert 2 <= len(ticks) <= 12
        assert all(scale.low - 1e-12 <= t <= scale.high + 1e-12 for t in ticks)
        assert len({scale.text(t, ticks) for t in ticks}) == len(ticks) or high < 1e-6
    assert scale_of(Axis("x", log=True), [0.0, -1.0]) is None
    assert [number(v) for v in (0.0, 12.345, 12345.6, 1e-7)] == ["0", "12.35", "12,346", "1e-07"]


def test_a_sparkline() -> None:
    assert sparkline([1, 2, 3, 4], ascii=False) == "▁▃▆█"
    assert sparkline([1, 1], ascii=True) == "--"
    assert sparkline([], ascii=True) == ""


class Terminal(io.StringIO):
    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True


FIGURE = LinePlot("title", Axis("x"), Axis("y"), [Series("日本", [Point(0, 1), Point(1, 2)])])


def test_pipes_get_ascii() -> None:
    text = "\n".join(plain([FIGURE]))
    assert text.replace("日本", "").isascii()
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text


def test_a_terminal_gets_colour_unless_it_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, without = Terminal("utf-8"), Terminal("utf-8")
    rich(FIGURE, coloured, no_color=False, width=60)
    rich(FIGURE, without, no_color=True, width=60)
    assert "\x1b[36m" in coloured.getvalue()
    assert "\x1b[36m" not in without.getvalue()
    assert "●" in without.getvalue()
    widths = [cells(re.sub(r"\x1b\[[0-9;]*m", "", s)) for s in without.getvalue().splitlines()]
    assert max(widths) <= 60


def test_a_terminal_without_unicode_gets_ascii() -> None:
    terminal = Terminal("ascii")
    rich(FIGURE, terminal, no_color=True, width=60)
    assert terminal.getvalue().replace("日本", "").isascii()
