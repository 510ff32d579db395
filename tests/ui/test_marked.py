"""Texts whose words say how much they weigh."""

from __future__ import annotations

import io

from localllm.ui import render
from localllm.ui.marked import Mark, Marked, pieces, plain_text

TEXT = "Prove it, please"
MARKED = Marked(TEXT, (Mark(0, 5, 1.0), Mark(10, 16, -0.2)), "up", "down")


def test_signs_where_there_is_no_colour() -> None:
    assert plain_text(MARKED) == "[++Prove] it, [-please]"
    assert list(render.plain(MARKED)) == ["[++Prove] it, [-please]"]


def test_nothing_of_the_text_is_lost() -> None:
    odd = Marked(
        TEXT, (Mark(3, 8, 1.0), Mark(5, 9, 2.0), Mark(14, 99, 1.0), Mark(9, 9, 0.0)), "", ""
    )
    assert "".join(text for text, _ in pieces(odd)) == TEXT
    assert "".join(text for text, _ in pieces(Marked("", (), "", ""))) == ""


def test_a_prompt_does_not_command_the_terminal() -> None:
    evil = Marked("a\x1b[2Jb\nc\x07", (Mark(0, 1, 1.0),), "", "")
    assert plain_text(evil) == "[++a]?[2Jb\nc?"


def test_colours_on_a_terminal() -> None:
    out = io.StringIO()
    out.isatty = lambda: True  # type: ignore[method-assign]
    render.rich(MARKED, out, no_color=True, width=80)
    assert out.getvalue() == "[++Prove] it, [-please]\n"
