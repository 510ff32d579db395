"""Text in terminal cells."""

from __future__ import annotations

import unicodedata


def clean(text: str) -> str:
    """One line without control characters: names come from files."""
    return "".join(" " if c.isspace() else "?" if unicodedata.category(c)[0] == "C" else c
                   for c in text)  # fmt: skip


def cells(text: str) -> int:
    """Terminal cells: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def fitted(text: str, width: int, ascii: bool) -> str:
    """`text` in exactly `width` cells, its middle cut out where it is longer: names differ
    at the end."""
    text = clean(text)
    if cells(text) > width:
        dots = ".." if ascii else "…"
        room = width - len(dots)
        head, tail = "", ""
        while cells(head + text[len(head)]) <= room // 3:
            head += text[len(head)]
        while cells(text[-len(tail) - 1] + tail) <= room - cells(head):
            tail = text[-len(tail) - 1] + tail
        text = head + dots + tail
    return text + " " * (width - cells(text))
