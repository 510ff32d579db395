"""One self-contained HTML page: text, tables and interactive plots, and the data behind them.

A page asks nothing of the network (its content security policy forbids it), reads in light and
dark and on paper, and every plot has its figures in a table beneath. The plots are drawn by
Chart.js, which stands in the page (ui/assets/README.md).
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from localllm.ui.figure import BarPlot, Figure, LinePlot, ScatterPlot
from localllm.ui.page_figure import description, figure_table, harmless, height_px, missing
from localllm.ui.sink import to_json
from localllm.ui.view import AnyCell, Fields, Note, Table, Toned, text_of

_SCRIPTS = (
    "chart.umd.min.js", "chartjs-chart-error-bars.umd.min.js", "chartjs-plugin-zoom.min.js",
    "page.js",
)  # fmt: skip
_MOST_REASONS = 4  # under a plot; all of them are in its table
_LONG = 30  # characters, above which a cell is given room
_NOTICE = (
    "Contains Chart.js (c) Chart.js Contributors, chartjs-plugin-zoom (c) chartjs-plugin-zoom.js"
    " Contributors, chartjs-chart-error-bars (c) Samuel Gratzl: MIT licence."
)


@dataclass(frozen=True)
class Folded:
    """A long table under its name, opened by a click and on paper."""

    summary: str
    table: Table


Block = Figure | Table | Fields | Note | Folded


@dataclass(frozen=True)
class Section:
    """Neighbouring plots stand side by side where there is room. `intro` says what one sees."""

    title: str
    blocks: Sequence[Block]
    intro: str = ""


@dataclass(frozen=True)
class Page:
    """`data` is what the download button saves, as JSON under `data_name`; None: no button."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    data: Any = None
    data_name: str = "data.json"
    footer: str = ""


def render_page(page: Page) -> str:
    """The page's whole text (UTF-8). Whatever stands in it, names included, is only text."""
    figures: list[dict[str, Any]] = []
    body = "".join(_body(page, figures))
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline';"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{_text(page.title)}</title>\n<!-- {_NOTICE} -->\n"
        f"<style>\n{_asset('page.css')}</style>\n</head>\n<body>\n{body}"
        f"{_embedded('figures', figures)}{_embedded('data', page.data)}"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _body(page: Page, figures: list[dict[str, Any]]) -> Iterator[str]:
    save = f'<button id="save" type="button" data-name="{_text(page.data_name)}">Save data</button>'
    yield f"<header><div><h1>{_text(page.title)}</h1>"
    yield f'<p class="soft">{_text(page.subtitle)}</p></div>'
    yield f'<div class="tools">{save if page.data is not None else ""}'
    yield '<button id="theme" type="button">Light or dark</button></div></header>\n'
    if len(page.sections) > 1:
        links = (f'<li><a href="#s{n}">{_text(s.title)}</a></li>'
                 for n, s in enumerate(page.sections))  # fmt: skip
        yield f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>\n'
    yield "<main>\n"
    for number, section in enumerate(page.sections):
        yield f'<section id="s{number}"><h2>{_text(section.title)}</h2>\n'
        if section.intro:
            yield f"<p>{_text(section.intro)}</p>\n"
        yield from _blocks(section.blocks, figures)
        yield "</section>\n"
    yield f"</main>\n<footer><p>{_text(page.footer)}</p></footer>\n"


def _blocks(blocks: Sequence[Block], figures: list[dict[str, Any]]) -> Iterator[str]:
    inside = False  # a row of plots
    for block in blocks:
        is_plot = isinstance(block, BarPlot | LinePlot | ScatterPlot)
        if is_plot != inside:
            yield '<div class="plots">\n' if is_plot else "</div>\n"
            inside = is_plot
        if isinstance(block, BarPlot | LinePlot | ScatterPlot):
            yield from _figure(block, figures)
        elif isinstance(block, Table):
            yield _table(block)
        elif isinstance(block, Fields):
            yield _fields(block)
        elif isinstance(block, Folded):
            table = _table(block.table)
            yield f"<details><summary>{_text(block.summary)}</summary>{table}</details>\n"
        else:
            yield f'<p class="note {block.tone}">{_text(block.text)}</p>\n'
    if inside:
        yield "</div>\n"


def _figure(figure: Figure, figures: list[dict[str, Any]]) -> Iterator[str]:
    number, title = len(figures), _text(figure.title)
    height = height_px(figure)
    figures.append(description(figure))
    wide = ' class="wide"' if height > 420 else ""
    yield f'<figure{wide} data-figure="{number}"><figcaption><span>{title}</span>'
    yield '<button type="button">Reset zoom</button></figcaption>\n<div class="legend"></div>\n'
    yield f'<div class="plot" style="height:{height}px"><canvas role="img"'
    yield f' aria-label="{title}; the figures are in the table below"></canvas></div>\n'
    if figure.caption:
        yield f'<p class="soft"><small>{_text(figure.caption)}</small></p>\n'
    for reason in missing(figure)[:_MOST_REASONS]:
        yield f'<p class="warn"><small>{_text(reason)}</small></p>\n'
    yield f"<details><summary>Figures</summary>{_table(figure_table(figure))}</details></figure>\n"


def _table(table: Table) -> str:
    if not table.rows:
        return f'<p class="soft">{_text(table.empty)}</p>\n' if table.empty else ""
    right = [all(not isinstance(_bare(row[n]), str) for row in table.rows)
             for n in range(len(table.columns))]  # fmt: skip
    head = "".join(
        f'<th scope="col"{" class=n" if to_right else ""}>{_text(name)}</th>'
        for name, to_right in zip(table.columns, right, strict=True)
    )
    rows = "".join(
        "<tr>" + "".join(_cell(c, r) for c, r in zip(row, right, strict=True)) + "</tr>\n"
        for row in table.rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>\n"
    )


def _cell(cell: AnyCell, to_right: bool) -> str:
    long = "long" if len(text_of(cell)) > _LONG else ""
    classes = [name for name in ("n" if to_right else "", _tone(cell), long) if name]
    attribute = f' class="{" ".join(classes)}"' if classes else ""
    return f"<td{attribute}>{_text(text_of(cell))}</td>"


def _tone(cell: AnyCell) -> str:
    return cell.tone if isinstance(cell, Toned) else ""


def _bare(cell: AnyCell) -> AnyCell:
    return cell.cell if isinstance(cell, Toned) else cell


def _fields(fields: Fields) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_text(label)}</th>{_cell(cell, False)}</tr>\n'
        for label, cell in fields.rows
        if cell is not None
    )
    return f'<div class="scroll"><table class="fields"><tbody>{rows}</tbody></table></div>\n'


def _text(text: str) -> str:
    """Escaped for content and attributes."""
    return html.escape(harmless(text))


def _embedded(name: str, value: Any) -> str:
    """JSON in the page. `<` is escaped: a name cannot end the element."""
    text = json.dumps(to_json(value), ensure_ascii=True, separators=(",", ":"))
    escaped = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="{name}">{escaped}</script>\n'


def _asset(name: str) -> str:
    text = (resources.files("localllm.ui") / "assets" / name).read_text(encoding="utf-8")
    return re.sub(r"^//# sourceMappingURL=.*$", "", text, flags=re.MULTILINE)
