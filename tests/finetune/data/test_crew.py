"""Rows made into tokens by processes are the rows that one thread makes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from localllm.errors import DamagedFile
from localllm.finetune.data import DataSpec, EncodeOptions, open_data, prepare
from localllm.finetune.data import crew as crews
from localllm.finetune.data.crew import Crew
from localllm.finetune.data.crew_process import Hand
from localllm.finetune.data.encoding import make
from localllm.finetune.data.rows import BadRow, Chat, Preference, RowAt, Text
from localllm.finetune.data.turns import Limits
from localllm.generation import Message
from tests.finetune.data.conftest import QWEN3, Speak, Write, chat
from tests.finetune.data.test_preparing import words

LIMITS = Limits("assistant", 96, "Be brief.")


def rows(n: int) -> list[Chat | Preference | Text | BadRow]:
    """Of every kind, good and bad, and longer than the limit."""
    found: list[Chat | Preference | Text | BadRow] = []
    for i in range(n):
        at = RowAt("a.jsonl", i + 1)
        said = (Message("user", words(i % 60, i)), Message("assistant", f"<|im_end|> Ä {i}"))
        call = {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]}
        turns = said * (1 + i % 5)
        found += [
            Chat(turns, (True, i % 4 > 0) * (len(turns) // 2), (), at),
            Chat((*said, Message("user", "more"), Message("assistant", "", call)), (True,) * 4,
                 ({"type": "function", "function": {"name": "f"}},), at),
            Chat((said[0],), (True,), (), at),
            Preference((said[0],), (said[1],), (Message("assistant", "no"),), (), at),
            Text(words(90, i), at),
            BadRow("not UTF-8", f"byte {i}", at),
        ]  # fmt: skip
    return found


@pytest.fixture
def made_there(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of a process made."""
    counts: list[int] = []
    real = Hand.make

    def counted(self: Hand, given: Any) -> Any:
        found = real(self, given)
        counts.append(len(found))
        return found

    monkeypatch.setattr(Hand, "make", counted)
    return counts


def test_processes_make_what_one_thread_makes(speak: Speak, made_there: list[int]) -> None:
    dialect = speak("spm", QWEN3, thinking="off", day="2026-05-04")
    given = rows(40)
    crew = Crew(dialect, LIMITS, "split", 2)
    crew.hire(wait=True)
    with closing(crew.made(iter(given))) as found:
        assert list(found) == [make(row, dialect, LIMITS, "split") for row in given]
    assert sum(made_there) == len(given)


def test_a_process_that_dies_loses_nothing(speak: Speak, monkeypatch: pytest.MonkeyPatch) -> None:
    dialect, given = speak(), rows(40)
    crew = Crew(dialect, LIMITS, "truncate", 2)
    crew.hire(wait=True)
    real, calls = Hand.make, []

    def dying(self: Hand, batch: Any) -> Any:
        calls.append(self)
        if len(calls) == 3:
            self._child.kill()
        return real(self, batch)

    monkeypatch.setattr(Hand, "make", dying)
    with closing(crew.made(given)) as found:
        assert list(found) == [make(row, dialect, LIMITS, "truncate") for row in given]
    assert len(calls) > 3  # the other one went on


def test_none_is_left_when_reading_fails_or_nobody_reads_on(
    speak: Speak, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reading() -> Iterator[Any]:
        yield from rows(60)
        raise DamagedFile("the file ends here")

    for reads_on in (True, False):
        crew = Crew(speak(), LIMITS, "truncate", 2)
        crew.hire(wait=True)
        with closing(crew.made(reading())) as found:
            next(found)
            if reads_on:
                with pytest.raises(DamagedFile, match="ends here"):
                    list(found)
        assert [hand._child.poll() is not None for hand in crew._hands] == [True, True]


def test_rows_that_keep_coming_are_handed_on(
    speak: Speak, write: Write, monkeypatch: pytest.MonkeyPatch, made_there: list[int]
) -> None:
    path = write("a.jsonl", [*(chat(words(40, i), words(40, -i)) for i in range(900)), {"x": 1}])
    data = open_data(DataSpec((str(path),)))
    plain = prepare(data, speak(), EncodeOptions(max_length=256), n_threads=1)
    assert not made_there
    monkeypatch.setattr(crews, "_AFTER_S", 0.0)
    hire = Crew.hire
    monkeypatch.setattr(Crew, "hire", lambda self: hire(self, wait=True))
    prepare(data, speak(), EncodeOptions(max_length=256), n_threads=3)
    assert not made_there  # so few threads do as well without
    shared = prepare(data, speak(), EncodeOptions(max_length=256), n_threads=4)
    assert sum(made_there) > 300
    assert shared.report == plain.report  # lines and digests too
    assert [e.ids.tolist() for e in shared.examples] == [e.ids.tolist() for e in plain.examples]
    assert [e.source for e in shared.examples] == [e.source for e in plain.examples]


def test_without_memory_or_processes_threads_do_it(
    speak: Speak, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialect, given = speak(), rows(20)
    monkeypatch.setattr(crews, "_available_bytes", lambda: 100 << 20)
    for crew in (Crew(dialect, LIMITS, "truncate", 4), Crew(dialect, LIMITS, "truncate", 2)):
        crew.hire(wait=True)
        assert not crew._hands
        assert list(crew.made(given)) == [make(r, dialect, LIMITS, "truncate") for r in given]
        monkeypatch.setattr(crews, "_available_bytes", lambda: 64 << 30)
        monkeypatch.setattr(sys, "executable", "/nowhere/python")


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no SIGKILL")
def test_they_end_with_a_parent_that_was_killed(
    vocabulary: Callable[..., Any], tmp_path: Path
) -> None:
    script = tmp_path / "parent.py"  # without a main guard: nothing imports it again
    script.write_text(
        "from pathlib import Path\n"
        "from localllm.finetune.data import Dialect\n"
        "from localllm.finetune.data.crew import Crew\n"
        "from localllm.finetune.data.turns import Limits\n"
        f"dialect = Dialect.open(Path({str(vocabulary().path)!r}))\n"
        "crew = Crew(dialect, Limits('all', 9), 'drop', 2)\n"
        "crew.hire(wait=True)\n"
        "print(*(hand._child.pid for hand in crew._hands), flush=True)\n"
        "import time; time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(map(_lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_lives, pids))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # a zombie that nobody waits for has ended too
    return not (stat.exists() and ") Z" in stat.read_text())
