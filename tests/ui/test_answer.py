"""What a terminal shows of a streaming answer, seen by a terminal emulator."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from localllm.ui import Sink, answer_view
from localllm.ui import answer as answers
from localllm.ui.answer import TerminalView

pyte = pytest.importorskip("pyte")

DOCUMENT = """# Fruits

A paragraph with **bold words**, *emphasis*, `code` and [a link](https://example.com) that is
longer than a line of the screen and so it wraps, more than once where the screen is narrow.
A line break stays one.

1. one with **bold**
2. two
   - nested, and long enough to wrap around the end of a line of a narrow screen
3. three

```python
def f(x):

    return x + 1  # plus one
```

| name | value |
|------|------:|
| a | 1 |
| bb | 22 |

> quoted

<div>html</div> 2 * 3 * 4 snake_case_name

Done.
"""


@pytest.fixture(autouse=True)
def _draw_always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(answers, "_LEAST_S", 0)
    monkeypatch.setattr(answers, "_SHARE", 0)
    yield


class Screen(io.StringIO):
    """stdout as a terminal of this size, seen through an emulator."""

    def __init__(self, columns: int = 60, rows: int = 16) -> None:
        super().__init__()
        self.size = (columns, rows)
        self.screen: Any = pyte.HistoryScreen(columns, rows, history=9000, ratio=0.5)
        self.stream = pyte.Stream(self.screen)
        self.written = 0

    def write(self, text: str) -> int:
        self.stream.feed(text.replace("\n", "\r\n"))  # as a terminal's driver does
        self.written += len(text)
        return len(text)

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        columns = self.screen.columns
        above = ["".join(row[x].data for x in range(columns)) for row in self.screen.history.top]
        found = [line.rstrip() for line in [*above, *self.screen.display]]
        while found and not found[-1]:
            found.pop()
        return found


def view_on(screen: Screen, **more: Any) -> TerminalView:
    options = {"thinking": "show", "markdown": True, "no_color": False, **more}
    return TerminalView(screen, size=lambda: screen.size, **options)


def cut(text: str, longest: int, seed: int = 0) -> Iterator[str]:
    rng, at = random.Random(seed), 0
    while at < len(text):
        n = rng.randint(1, longest)
        yield text[at : at + n]
        at += n


def streamed(text: str, columns: int, rows: int, longest: int, seed: int = 0) -> Screen:
    screen = Screen(columns, rows)
    view = view_on(screen)
    for piece in cut(text, longest, seed):
        view.answer(piece)
    view.end()
    return screen


@pytest.mark.parametrize(("columns", "rows"), [(60, 16), (24, 5), (100, 40)])
def test_a_stream_ends_as_what_is_drawn_at_once(columns: int, rows: int) -> None:
    whole = streamed(DOCUMENT, columns, 500, len(DOCUMENT)).lines()
    for longest, seed in ((3, 1), (12, 2), (80, 3)):
        assert streamed(DOCUMENT, columns, rows, longest, seed).lines() == whole


def test_markdown_is_drawn() -> None:
    text = "\n".join(streamed(DOCUMENT, 90, 60, 5).lines())
    assert "\nA paragraph with bold words, emphasis, code and a link (https://example.com)" in text
    assert "\nA line break stays one." in text
    assert "1 one with bold" in text
    assert "\ndef f(x):\n\n    return x + 1  # plus one\n" in text  # as it can be copied
    assert " a         1" in text
    assert "<div>html</div> 2 * 3 * 4 snake_case_name" in text
    assert "**" not in text
    assert "```" not in text


WIDE = """| name | who made it and where | price | note |
|:-----|:---------------------:|------:|------|
| りんごとみかんとぶどう | 日本の小さな町の工場 | 12000円 | 一二三四五六七八九十 |
| plain | `code_that_is_one_long_word_of_its_own` | 7 | **bold** and more |
"""


@pytest.mark.parametrize("columns", [10, 16, 24, 40, 60, 120])
def test_a_table_wider_than_the_screen_loses_nothing(columns: int) -> None:
    def letters(text: str) -> list[str]:
        return sorted(c for c in text if c.isalnum() or c == "_")

    lines = streamed(WIDE, columns, 500, 7).lines()
    assert "…" not in "".join(lines)
    body = letters("".join(WIDE.splitlines()[2:]))
    shown = letters("".join(lines))
    for letter in set(body):  # its heads come with each row where it is drawn as a list
        assert shown.count(letter) >= body.count(letter), letter
    assert streamed(WIDE, columns, 9, 3, seed=4).lines() == lines


def test_a_table_of_many_columns_is_a_list_of_its_rows() -> None:
    names = [f"column{n}" for n in range(12)]
    rows = "".join("| " + " | ".join(f"{row}{n}" for n in range(12)) + " |\n" for row in "ab")
    text = f"| {' | '.join(names)} |\n{'|---' * 12}|\n{rows}"
    assert streamed(text, 40, 500, 5).lines() == [
        *(f"column{n}: a{n}" for n in range(12)), "", *(f"column{n}: b{n}" for n in range(12)),
    ]  # fmt: skip
    assert "column0  column1" in " ".join(streamed(text, 130, 500, 5).lines()[:1])


def test_an_answer_longer_than_the_screen_is_whole_in_the_scrollback() -> None:
    code = "```\n" + "\n".join(f"line {n}" for n in range(300)) + "\n```\n"
    table = "| n | v |\n|---|---|\n" + "\n".join(f"| r{n} | {'x' * (n % 9)} |" for n in range(50))
    lines = streamed(f"{code}\n{table}\n\nend", 40, 10, 30).lines()
    assert [line for line in lines if line.startswith("line")] == [f"line {n}" for n in range(300)]
    rows = [line.split()[0] for line in lines if line.startswith(" r")]
    assert rows == [f"r{n}" for n in range(50)]
    assert lines[-1] == "end"


def test_little_is_written_again() -> None:
    text = " ".join(f"word{n}" for n in range(400))
    screen = streamed(text, 80, 24, 4)
    assert screen.written < 3 * len(text)


def test_thinking_is_dimmed_and_stands_above_the_answer() -> None:
    screen = Screen(40, 12)
    view = view_on(screen)
    view.status("reading 900 tokens ...")
    assert screen.lines() == ["reading 900 tokens ..."]
    for piece in ("I think ", "of **it**.\n\n", "Twice."):
        view.thinking(piece)
    view.answer("Yes.")
    view.end()
    assert screen.lines() == ["I think of **it**.", "", "Twice.", "", "Yes."]


def test_hidden_thinking_leaves_one_line() -> None:
    screen = Screen(40, 12)
    view = view_on(screen, thinking="hide")
    view.thinking("secret " * 50)
    assert screen.lines() == ["thinking ... 0 s"]
    view.answer("Yes.")
    view.end()
    assert screen.lines() == ["thought for 0 s", "", "Yes."]


def test_two_answers_do_not_mix() -> None:
    screen = Screen(40, 12)
    view = view_on(screen)
    for text in ("one **a**", "two"):
        view.answer(text)
        view.end()
    assert screen.lines() == ["one a", "two"]


def test_an_answer_cannot_steer_the_terminal() -> None:
    screen = Screen(60, 6)
    view = view_on(screen)
    view.answer("safe \x1b[2J\x1b]0;title\x07 \x9b2J text")
    view.end()
    assert screen.lines()[0].startswith("safe")
    assert screen.lines()[0].endswith("text")
    assert screen.screen.title == ""


def test_without_markdown_the_text_stands_as_it_is() -> None:
    screen = Screen(60, 6)
    view = view_on(screen, markdown=False)
    for piece in cut("**a**\n- b\n", 3):
        view.answer(piece)
    view.end()
    assert screen.lines() == ["**a**", "- b"]


def test_no_color_leaves_no_colours() -> None:
    colours = []
    for no_color in (False, True):
        screen = Screen(60, 30)
        view = view_on(screen, no_color=no_color)
        view.answer(DOCUMENT)
        view.end()
        cells = itertools.chain.from_iterable(row.values() for row in screen.screen.buffer.values())
        colours.append({cell.fg for cell in cells} - {"default"})
    assert colours[0]
    assert not colours[1]


def test_a_wider_terminal_goes_on_without_repeating_lines() -> None:
    words = [f"w{n}" for n in range(200)]
    screen = Screen(40, 8)
    view = view_on(screen)
    view.answer(" ".join(words[:120]))
    screen.screen.resize(8, 70)
    screen.size = (70, 8)
    view.answer(" " + " ".join(words[120:]))
    view.end()
    assert " ".join(screen.lines()).split() == words


def test_a_narrower_terminal_loses_nothing() -> None:
    words = [f"w{n}" for n in range(60)]
    screen = Screen(70, 12)
    view = view_on(screen)
    view.answer(" ".join(words[:40]))
    screen.size = (35, 12)  # a terminal that has not wrapped what stood there
    view.answer("\n\n" + " ".join(words[40:]))
    view.end()
    assert " ".join(screen.lines()).split()[-20:] == words[40:]


def test_a_pipe_gets_the_text_and_nothing_else() -> None:
    out, err = io.StringIO(), io.StringIO()
    view = answer_view(Sink("chat", stdout=out, stderr=err), thinking="hide", markdown=True)
    view.status("reading")
    view.thinking("hm")
    view.answer("# T\x1b[1m\n")
    view.end()
    assert out.getvalue() == "# T\x1b[1m\n"
    assert err.getvalue() == ""


def test_shown_thinking_goes_to_stderr_beside_a_pipe() -> None:
    out, err = io.StringIO(), io.StringIO()
    view = answer_view(Sink("chat", stdout=out, stderr=err), thinking="show", markdown=True)
    view.thinking("hm")
    view.answer("yes")
    view.end()
    assert (out.getvalue(), err.getvalue()) == ("yes\n", "hm\n\n")


def test_json_shows_nothing() -> None:
    out, err = io.StringIO(), io.StringIO()
    sink = Sink("chat", as_json=True, stdout=out, stderr=err)
    view = answer_view(sink, thinking="show", markdown=True)
    view.thinking("hm")
    view.answer("yes")
    view.end()
    assert out.getvalue() == err.getvalue() == ""
