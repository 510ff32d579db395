"""Documents: a text file is one, read in pieces that tokenize as the whole does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from localllm.finetune.data.reading.jsonvalue import NOT_UTF8
from localllm.finetune.data.reading.lines import lines
from localllm.finetune.data.rows import BadRow, RowAt, Text

PIECE = 1 << 18  # characters


def read_text(path: Path, name: str) -> Iterator[Text | BadRow]:
    """The document in `path`, in pieces of about `PIECE` characters. Lines that are no UTF-8, or
    hold NUL bytes, are left out and told.

    A piece ends after the newlines of a line, before a character that is no space: there no
    tokenizer joins what stands on both sides.
    """
    pieces = _pieces(path, name)
    held: Text | None = None
    for piece in pieces:
        if isinstance(piece, BadRow):
            yield piece
            continue
        if held is not None:
            yield held
        held = Text(piece.text, piece.at, first=held is None, last=False)
    if held is not None:
        yield Text(held.text, held.at, held.first, last=True)


def _pieces(path: Path, name: str) -> Iterator[Text | BadRow]:
    parts: list[str] = []
    size, start = 0, 1
    for line in lines(path):
        at = RowAt(name, line.number)
        if line.text is None:
            yield BadRow(NOT_UTF8 if "UTF-8" in line.problem else "too long", line.problem, at)
            continue
        if "\0" in line.text:
            yield BadRow("NUL bytes", "it holds NUL bytes: is this a text?", at)
            continue
        for part in _cut(line.text + "\n"):
            if size >= PIECE and (part[:1].strip() or parts[-1][-1:] != "\n"):
                yield Text("".join(parts), RowAt(name, start))
                parts, size, start = [], 0, line.number
            parts.append(part)
            size += len(part)
    text = "".join(parts)
    # one newline at the end of a file ends its last line and is no text
    yield Text(text.removesuffix("\n"), RowAt(name, start))


def _cut(line: str) -> Iterator[str]:
    """A line without end in pieces, each but the first beginning with the space before a word."""
    start = 0
    while len(line) - start > 2 * PIECE:
        end = line.rfind(" ", start + PIECE // 2, start + PIECE)
        while end > 0 and (line[end - 1].isspace() or line[end + 1].isspace()):
            end = line.rfind(" ", start + PIECE // 2, end)
        end = end if end > 0 else start + PIECE
        yield line[start:end]
        start = end
    yield line[start:]
