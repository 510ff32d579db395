"""Files as rows: every format, and all that can be wrong with a file."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from localllm.errors import DamagedFile, FileGone, UsageProblem
from localllm.finetune.data import Dataset, DataSpec, open_data
from localllm.finetune.data.reading import jsonfile, lines
from localllm.finetune.data.reading.texts import PIECE, read_text
from localllm.finetune.data.rows import BadRow, Chat, Text
from tests.finetune.data.conftest import Write, chat

ROWS = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(5)]
CSV = "prompt,completion\r\n" + "".join(f"question {i},answer {i}\r\n" for i in range(5))


def opened(*paths: Path, **spec: Any) -> Dataset:
    return open_data(DataSpec(tuple(map(str, paths)), **spec))


def said(data: Dataset) -> list[tuple[str, ...]]:
    return [
        tuple(m.content for m in row.messages) for row in data.records() if isinstance(row, Chat)
    ]


def bad(data: Dataset) -> list[tuple[int, str]]:
    return [(row.at.number, row.kind) for row in data.records() if isinstance(row, BadRow)]


def jsonl(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


WAYS = {
    "a.jsonl": jsonl(ROWS),
    "bom.jsonl": b"\xef\xbb\xbf" + jsonl(ROWS).replace(b"\n", b"\r\n"),
    "blank.jsonl": b"\n\n" + jsonl(ROWS).replace(b"\n", b"\n \n").rstrip(),
    "a.ndjson": jsonl(ROWS),
    "array.json": json.dumps(ROWS, indent=2).encode(),
    "object.json": json.dumps({"version": 1, "data": ROWS}).encode(),
    "other.json": json.dumps({"my_rows": ROWS}).encode(),
    "lines.json": jsonl(ROWS),
    "a.txt": jsonl(ROWS),
    "nosuffix": jsonl(ROWS),
    "a.csv": CSV.encode(),
    "bom.csv": b"\xef\xbb\xbf" + CSV.encode(),
    "semi.csv": CSV.replace(",", ";").encode(),
    "a.tsv": CSV.replace(",", "\t").encode(),
    "a.jsonl.gz": gzip.compress(jsonl(ROWS)),
    "a.csv.bz2": bz2.compress(CSV.encode()),
    "array.json.xz": lzma.compress(json.dumps(ROWS).encode()),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_same_rows_come_out_of_every_format(name: str, write: Write) -> None:
    data = opened(write(name, WAYS[name]))
    assert said(data) == [(f"question {i}", f"answer {i}") for i in range(5)]
    assert data.format == "completion"
    assert bad(data) == []


def test_zstandard(write: Write) -> None:
    zstandard = pytest.importorskip("zstandard")
    frames = zstandard.compress(jsonl(ROWS[:2])) + zstandard.compress(jsonl(ROWS[2:]))
    assert len(said(opened(write("a.jsonl.zst", frames)))) == 5
    with pytest.raises(DamagedFile, match=r"b\.jsonl\.zst is damaged"):
        said(opened(write("b.jsonl.zst", frames[:-4] + b"xxxx")))


def test_parquet(write: Write, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.Table.from_pylist(ROWS), path)
    assert said(opened(path)) == [(f"question {i}", f"answer {i}") for i in range(5)]
    rows = [chat("Hi", "Hello"), chat("Bye", "Bye")]
    parquet.write_table(arrow.Table.from_pylist(rows), path, row_group_size=1)
    assert said(opened(path)) == [("Hi", "Hello"), ("Bye", "Bye")]
    content = path.read_bytes()
    for damaged in (content[:-20], b"PAR1" + b"\0" * 60 + b"PAR1"):
        with pytest.raises(DamagedFile):
            said(opened(write("b.parquet", damaged)))


def test_bad_lines_are_named_and_the_rest_is_used(write: Write) -> None:
    good = json.dumps(ROWS[0]).encode()
    content = [
        good, b'{"prompt": "caf\xe9", "completion": "x"}', b"nonsense", b"[1, 2]", b"3", b"",
        b'{"prompt": "x", "prompt": "y", "completion": "z"}', b"[" * 100_000,
        b'{"prompt": "half \\ud83d", "completion": "x"}',
        b'{"prompt": "a\\u0000b", "completion": "x"}',
        b'{"prompt": NaN, "completion": "x"}', b'{"prompt": 7, "completion": true}', good[:-1],
    ]  # fmt: skip
    data = opened(write("a.jsonl", b"\n".join(content)))
    assert bad(data) == [
        (2, "not UTF-8"), (3, "no JSON"), (4, "no object"), (5, "no object"), (7, "a key twice"),
        (8, "no JSON"), (9, "not UTF-8"), (10, "NUL bytes"), (11, "empty"), (13, "no JSON"),
    ]  # fmt: skip
    assert said(data) == [("question 0", "answer 0"), ("7", "true")]


def test_a_line_of_no_end_is_a_bad_row_and_costs_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 1 << 20)
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"prompt": "')
        for _ in range(40):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n' + json.dumps(ROWS[0]).encode())
    tracemalloc.start()
    data = opened(path)
    assert bad(data) == [(1, "too long")]
    assert said(data) == [("question 0", "answer 0")]
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("block", [7, 64, 1 << 20])
def test_an_array_is_read_in_pieces_of_any_size(
    block: int, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonfile, "_BLOCK", block)
    rows = [
        {"prompt": 'a "quoted" [brace} é🙂 \\u00e9', "completion": "y" * i} for i in range(1, 30)
    ]
    text = json.dumps(rows, indent=1, ensure_ascii=False).replace('"yyy"', '"yyy", "prompt": "x"')
    data = opened(write("a.json", text))
    assert said(data) == [(r["prompt"], r["completion"]) for r in rows if r["completion"] != "yyy"]
    assert bad(data) == [(1 + 4 * 2 + 1, "a key twice")]  # four lines a row


@pytest.mark.parametrize("block", [7, 1 << 20])
def test_rows_of_an_array_in_one_line_are_counted(
    block: int, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `json.dump` writes it: that every row lies in line 1 says nothing."""
    monkeypatch.setattr(jsonfile, "_BLOCK", block)
    data = opened(write("a.json", json.dumps([*ROWS, 3, ROWS[0]])))
    places = [(one.at.number, one.at.unit) for one in data.records()]
    assert places == [(n, "row") for n in range(1, len(ROWS) + 3)]
    assert bad(data) == [(len(ROWS) + 1, "no object")]
    alone = opened(write("b.json", json.dumps(ROWS[:1])))
    assert [one.at.unit for one in alone.records()] == ["line"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[{"prompt": "a", "completion": "b"}, {"prompt": ', "no JSON"),
        ('[{"prompt": "a", "completion": "b"} {"prompt": "c"}]', "neither a comma"),
        ('[{"prompt": "a", "completion": "b"},]', "comma before the end"),
        ('[{"prompt": "a", "completion": "b"}', "in the middle"),
        ("[" * 100_000, "nested too deeply"),
        ('{"prompt": {"0": "a"}, "completion": {"0": "b"}}', "columns, not rows"),
        ('"text"', "one value"),
        ("{", "no JSON"),
    ],
)
def test_a_broken_document_says_where(text: str, why: str, write: Write) -> None:
    with pytest.raises((DamagedFile, UsageProblem), match=why):
        said(opened(write("a.json", text)))


def test_tables(write: Write) -> None:
    text = (
        'prompt,completion\n"two\nlines, and a comma","say ""hi"""\none\nx,y,z\n\nlast,"\u00e9"\n'
    )
    raw = text.encode() + b"caf\xe9,x\n"
    data = opened(write("a.csv", raw))
    assert said(data) == [("two\nlines, and a comma", 'say "hi"'), ("last", "é")]
    assert bad(data) == [
        (4, "another number of fields"), (5, "another number of fields"), (8, "not UTF-8"),
    ]  # fmt: skip
    for header, why in (("a,a\n1,2\n", "two columns"), ("\n", "no header"), ("", "no header")):
        with pytest.raises(UsageProblem, match=why):
            opened(write("b.csv", header))
    with pytest.raises(DamagedFile, match="line 2"):
        said(opened(write("c.csv", 'prompt,completion\n"never closed,x\n')))


def test_a_table_may_hold_conversations_as_json(write: Write) -> None:
    cell = json.dumps(chat("Hi", "Hello")["messages"]).replace('"', '""')
    assert said(opened(write("a.csv", f'id,messages\n1,"{cell}"\n'))) == [("Hi", "Hello")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_named(encoding: str, write: Write) -> None:
    raw = jsonl(ROWS).decode().encode(encoding)
    with pytest.raises((DamagedFile, UsageProblem)) as told:
        said(opened(write("a.jsonl", raw)))
    assert encoding == "utf-16-be" or "UTF-16" in told.value.message


def test_archives_that_break_off(write: Write) -> None:
    content = jsonl([{"prompt": random.Random(i).random(), "completion": i} for i in range(500)])
    for name, packed in (
        ("a.jsonl.gz", gzip.compress(content)),
        ("a.jsonl.xz", lzma.compress(content)),
        ("a.jsonl.bz2", bz2.compress(content)),
    ):
        with pytest.raises(DamagedFile, match="damaged"):
            said(opened(write(name, packed[: len(packed) // 2])))
        with pytest.raises(DamagedFile, match="damaged"):
            said(opened(write(name, b"\0" * 40)))


def test_a_text_in_pieces_is_the_text(write: Write) -> None:
    random_ = random.Random(3)
    words = ["the", "  deep", "\n", "\n\n", "\t", "é", "🙂", "word,", " "]
    text = "".join(random_.choice(words) + " " * random_.randint(0, 2) for _ in range(400_000))
    text += "x" * (3 * PIECE) + " y" * (2 * PIECE) + "\n\nthe end"
    pieces = [p for p in read_text(write("a.txt", text), "a") if isinstance(p, Text)]
    assert "".join(p.text for p in pieces) == text
    assert len(pieces) > 5
    assert [p.first for p in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [p.last for p in pieces] == [False] * (len(pieces) - 1) + [True]
    # a tokenizer would not have joined what stands on both sides
    for before, after in pairwise(pieces):
        ends = before.text.endswith("\n") and not after.text[0].isspace()
        word = after.text[0] == " " and not before.text[-1].isspace() and after.text[1] != " "
        assert ends or word or "x" * 1000 in before.text
    assert all(len(p.text) < 4 * PIECE for p in pieces)


def test_lines_of_a_text_that_are_none_are_left_out(write: Write) -> None:
    data = opened(write("a.txt", b"good\ncaf\xe9\nb\0d\r\nalso good\n"))
    assert [r.text for r in data.records() if isinstance(r, Text)] == ["good\nalso good"]
    assert bad(data) == [(2, "not UTF-8"), (3, "NUL bytes")]
    with pytest.raises(DamagedFile, match="PDF"):
        opened(write("b.txt", b"%PDF-1.7 ..."))


def test_folders(write: Write, tmp_path: Path) -> None:
    write("docs/b.md", "# B")
    write("docs/sub/a.txt", "A")
    write("docs/.hidden/c.txt", "no")
    write("docs/d.pdf", b"%PDF")
    data = opened(tmp_path / "docs")
    assert [r.text for r in data.records() if isinstance(r, Text)] == ["# B", "A"]
    assert data.left_out == {".pdf": 1}
    assert data.format == "text"
    write("set/README.md", "about")
    write("set/data/train-1.jsonl", ROWS[3:])
    write("set/data/train-0.jsonl", ROWS[:3])
    assert len(said(opened(tmp_path / "set"))) == 5
    assert said(opened(tmp_path / "set"))[0] == ("question 0", "answer 0")
    write("set/notes.txt", "text")
    with pytest.raises(UsageProblem, match=r"holds rows .* and documents"):
        opened(tmp_path / "set")
    write("other/x.exe", b"MZ")
    with pytest.raises(UsageProblem, match=r"no data: only 1 \.exe"):
        opened(tmp_path / "other")
    with pytest.raises(UsageProblem, match="two runs"):
        opened(tmp_path / "docs", write("a.jsonl", ROWS))


def test_what_is_not_there(write: Write, tmp_path: Path) -> None:
    with pytest.raises(FileGone, match="there is no file"):
        opened(tmp_path / "none.jsonl")
    with pytest.raises(UsageProblem, match="no rows"):
        opened(write("a.jsonl", ""))
    with pytest.raises(UsageProblem, match="no data to learn from"):
        DataSpec()


@pytest.mark.skipif(sys.platform == "win32", reason="has no named pipes in the file system")
def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(UsageProblem, match="read more than once"):
        opened(tmp_path / "pipe.jsonl")


def test_the_digest_of_files_is_of_their_bytes(write: Write) -> None:
    import hashlib

    raw = gzip.compress(jsonl(ROWS))
    (file,) = opened(write("a.jsonl.gz", raw)).files
    assert (file.sha256, file.size_bytes) == (hashlib.sha256(raw).hexdigest(), len(raw))
