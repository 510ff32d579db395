"""stdout is data, stderr is the rest; one JSON document a command."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from localllm.errors import DamagedFile, ExitCode
from localllm.refs import ModelRef
from localllm.ui import Bytes, Count, Fields, Heading, Rate, Seconds, Sink, Table, Tree
from localllm.ui.progress import JsonProgress, PlainProgress
from localllm.ui.render import plain, rich
from localllm.ui.sink import to_json
from localllm.ui.view import Note


@dataclass(frozen=True)
class Result:
    path: Path
    ref: ModelRef
    code: ExitCode
    share: float
    parts: tuple[int, ...]


RESULT = Result(Path("/m/日本"), ModelRef("hf", "a/b"), ExitCode.DAMAGED, float("nan"), (1, 2))


def make(as_json: bool) -> tuple[Sink, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Sink("verify", as_json=as_json, stdout=out, stderr=err), out, err


def test_the_json_document() -> None:
    sink, out, err = make(True)
    sink.warn("careful")
    sink.note("for people")
    sink.show(RESULT, lambda r: Note("hidden"))
    assert err.getvalue() == ""
    assert json.loads(out.getvalue()) == {
        "schema": 1,
        "command": "verify",
        "ok": True,
        "data": {"path": "/m/日本", "ref": "hf:a/b", "code": 7, "share": None, "parts": [1, 2]},
        "warnings": ["careful"],
        "error": None,
    }


def test_a_failed_result_has_data_and_error() -> None:
    sink, out, _ = make(True)
    sink.show(RESULT, ok=False, error=DamagedFile("x is bad", "rm x"))
    document = json.loads(out.getvalue())
    assert (document["ok"], document["error"]["kind"]) == (False, "damaged_file")
    assert document["data"]["parts"] == [1, 2]
    assert sink.exit_code == 7


def test_an_error_is_one_line_and_a_hint() -> None:
    sink, out, err = make(False)
    assert sink.fail(DamagedFile("two\nlines", "localllm rm x")) == 7
    assert out.getvalue() == ""
    assert err.getvalue() == "error: two lines\n  try: localllm rm x\n"


def test_notes_are_no_data_when_piped() -> None:
    sink, out, err = make(False)
    sink.show((), lambda _: [Table(("a", "b"), [("x", 1)]), Note("nothing else")])
    assert out.getvalue() == "a  b\nx  1\n"
    assert err.getvalue() == "nothing else\n"


def test_plain_text_is_aligned_by_cells_not_characters() -> None:
    table = Table(("name", "size"), [("日本", Bytes(1)), ("abcdef", Bytes(1 << 30))])
    assert list(plain([table])) == ["name     size", "日本      1 B", "abcdef  1 GiB"]
    assert list(plain(Fields([("a", 1), ("bcd", None), ("ef", None), ("gh", "x")]))) == [
        "a   1",
        "gh  x",
    ]
    tree = Tree("root", [Tree("a", [Tree("b")]), Tree("c")])
    assert list(plain([Heading("T"), tree])) == ["T", "root", "├── a", "│   └── b", "└── c"]


def test_no_figure_is_cut_off_on_a_narrow_terminal() -> None:
    row = ("a name that is far too long for what is left " * 3, "Q4_K_M", *[Bytes(1 << 30)] * 6)
    table = Table(("model", "type", "a", "b", "c", "d", "e", "f"), [row])
    for width in (80, 40):  # columns, then a block for each row
        out = io.StringIO()
        rich(table, out, no_color=True, width=width)
        assert out.getvalue().count("1 GiB") == 6
        assert "Q4_K_M" in out.getvalue()
        assert max(map(len, out.getvalue().splitlines())) <= width


@pytest.mark.parametrize(
    ("quantity", "text"),
    [
        (Bytes(0), "0 B"), (Bytes(999), "999 B"), (Bytes(1023), "0.999 KiB"),
        (Bytes(1536), "1.5 KiB"), (Bytes(253113024), "241 MiB"), (Bytes(42 << 30), "42 GiB"),
        (Bytes(1 << 50), "1.02e+03 TiB"), (Seconds(0.0000123), "12 µs"), (Seconds(0.25), "250 ms"),
        (Seconds(61), "61 s"), (Seconds(3725), "1 h 02 min"), (Seconds(185), "3 min 05 s"),
        (Rate(12.345), "12.35 t/s"), (Rate(1 << 30, "B/s"), "1 GiB/s"), (Count(268098176), "268 M"),
        (Count(262144), "262,144"), (Count(7_620_000_000), "7.62 B"),
    ],
)  # fmt: skip
def test_quantities(quantity: object, text: str) -> None:
    assert str(quantity) == text


def test_json_progress_has_a_first_and_a_last_line() -> None:
    out = io.StringIO()
    with JsonProgress(out).bytes("get", 10) as advance:
        advance(4)
        advance(6)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["event"], line["done"]) for line in lines] == [("start", 0), ("done", 10)]
    assert lines[0]["total"] == 10


def test_plain_progress_is_silent_for_short_work() -> None:
    out = io.StringIO()
    with PlainProgress(out).steps("count", 2) as advance:
        advance(1)
    assert out.getvalue() == ""
    with PlainProgress(out, quiet_s=0).bytes("get", 4096) as advance:
        advance(2048)
    assert "get: 2 KiB of 4 KiB" in out.getvalue()
    assert "left" in out.getvalue()


def test_what_has_no_json_form_is_a_bug() -> None:
    with pytest.raises(TypeError):
        to_json(object())
