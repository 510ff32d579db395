"""bench compare: two runs side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from localllm.bench.comparing.baseline import resolve_runs
from localllm.bench.comparing.compare import Compared, Difference, compare
from localllm.bench.comparing.matching import ACROSS
from localllm.bench.comparing.summary import COMPARE_COLUMNS, compare_cells, compare_markdown
from localllm.registry import Registry
from localllm.ui import Heading, Note, Sink, Table, Text, View
from localllm.ui.view import AnyCell, Part, Tone, Toned

_RUN = "A file of bench --json, bench export or llama-bench; a run's ID, a tag, MODEL, MODEL@TAG."
_TONES: dict[str, Tone] = {"faster": "good", "works now": "good", "slower": "bad",
                           "fails now": "bad"}  # fmt: skip


def compare_command(
    base: Annotated[str, typer.Argument(metavar="BASE", help=_RUN)],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The same.")],
    across: Annotated[
        list[str] | None,
        typer.Option(
            "--across", metavar="|".join(ACROSS), help="Compare though these differ; repeatable."
        ),
    ] = None,
    md: Annotated[bool, typer.Option("--md", help="Print Markdown.")] = False,
    *,
    sink: Sink,
) -> None:
    """Compare two runs: ratios with their confidence, memory and energy."""
    registry = Registry.open()
    found = compare(
        resolve_runs(base, registry), resolve_runs(new, registry), tuple(across or ())
    )  # fmt: skip
    for remark in dict.fromkeys(remark for compared in found for remark in compared.remarks):
        sink.warn(remark)
    sink.show(found, (lambda f: Text(compare_markdown(f).rstrip("\n"))) if md else _view)


def _view(found: tuple[Compared, ...]) -> View:
    view: list[Part] = []
    for compared in found:
        if len(found) > 1:
            view.append(Heading(compared.new.model))
        view.append(Table(COMPARE_COLUMNS, [_cells(row) for row in compared.rows]))
        noisy = [f"{row.test}, {text}" for row in compared.rows for text in row.noisy]
        view += [Note(text, "warn") for text in noisy]
    view.append(Note("ratio: new over base of the mean rates, by the samples of these runs"))
    return view


def _cells(row: Difference) -> list[AnyCell]:
    texts = compare_cells(row)
    verdict = Toned(texts[-1], _TONES[row.verdict]) if row.verdict in _TONES else texts[-1]
    return [*(text or None for text in texts[:-1]), verdict]
