"""Lines of any file, within bounds: a line of a gigabyte is a bad row, not a full memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from localllm.errors import DamagedFile
from localllm.finetune.data.reading.packed import opened

MAX_LINE = 64 * 2**20  # bytes: no conversation is as long, a file without line ends is
_BOM = b"\xef\xbb\xbf"
_WIDE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end. `text` None: it is too long, or no UTF-8 (`problem` says which)."""

    number: int
    text: str | None
    problem: str = ""


def lines(path: Path) -> Iterator[Line]:
    """Every line of `path`, which may be packed. A BOM and "\\r\\n" are taken away.

    Raises FileGone, UsageProblem, DamagedFile (broken archives, UTF-16).
    """
    with opened(path) as file:
        yield from _lines(file, path)


def _lines(file: IO[bytes], path: Path) -> Iterator[Line]:
    number = 0
    while raw := file.readline(MAX_LINE + 1):
        number += 1
        if number == 1:
            raw = beginning(raw, path)
        if len(raw) > MAX_LINE and not raw.endswith(b"\n"):
            _skip_line(file)
            yield Line(number, None, f"longer than {MAX_LINE} bytes")
            continue
        yield decoded(raw, number)


def beginning(raw: bytes, path: Path) -> bytes:
    """The first bytes of a file without a BOM. Raises DamagedFile for UTF-16."""
    if raw[:2] in _WIDE:
        raise DamagedFile(
            f"{path} is {_WIDE[raw[:2]]} text; only UTF-8 is read", "convert it to UTF-8 first"
        )
    return raw.removeprefix(_BOM)


def decoded(raw: bytes, number: int) -> Line:
    """One line as text."""
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    try:
        return Line(number, raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Line(number, None, f"byte {error.start + 1} is no UTF-8")


def _skip_line(file: IO[bytes]) -> None:
    while block := file.readline(1 << 20):
        if block.endswith(b"\n"):
            return
