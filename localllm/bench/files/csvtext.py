"""Rows of a CSV with a header line."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from localllm.errors import DamagedFile


def table(text: str, origin: str) -> tuple[list[Mapping[str, Any]], bool]:
    """Each row by column name, and whether the text was whole.

    It may end anywhere in the last row, which is then left out. Raises DamagedFile.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: list[tuple[int, list[str]]] = []
    whole = True
    try:
        lines.extend((reader.line_num, cells) for cells in reader if cells)
    except csv.Error as e:
        if "unexpected end" not in str(e):
            raise DamagedFile(f"{origin}, line {reader.line_num}: {e}") from None
        whole = False
    if not lines:
        return [], whole
    names = lines[0][1]
    rows: list[Mapping[str, Any]] = []
    for number, (line, cells) in enumerate(lines[1:], start=1):
        if len(cells) == len(names):
            rows.append(dict(zip(names, cells, strict=True)))
        elif number == len(lines) - 1 and len(cells) < len(names) and not text.endswith("\n"):
            whole = False
        else:
            raise DamagedFile(
                f"{origin}, line {line}: {len(cells)} values for {len(names)} columns"
            )
    return rows, whole
