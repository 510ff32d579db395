"""A process that makes rows into tokens: `Hand` as its parent holds it, and what runs in it.

Values go as pickles, one after the other: what it needs to know, then batches of rows. It ends
when its stdin does, so also when its parent was killed. It is started as a program of its own and
not by multiprocessing, which would run the caller's main module again.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from localllm.errors import EngineError
from localllm.finetune.data.dialect import Dialect, Manner
from localllm.finetune.data.encoding import Made, make
from localllm.finetune.data.rows import BadRow, Record
from localllm.finetune.data.spec import Overlong
from localllm.finetune.data.turns import Encoded, Limits

_GONE = (OSError, EOFError, ValueError, pickle.UnpicklingError)  # ValueError: a closed pipe
_NO_WINDOW = 0x08000000  # CREATE_NO_WINDOW of Windows
_Packed = tuple[Any, ...]


class Hand:
    """One such process. For one thread at a time, but `close`."""

    def __init__(self, manner: Manner, limits: Limits, overlong: Overlong) -> None:
        """Raises OSError where it cannot be started."""
        root = str(Path(__file__).resolve().parents[3])
        start = (
            f"import sys; sys.path.insert(0, {root!r}); "
            "from localllm.finetune.data.crew_process import main; main()"
        )
        self._child = subprocess.Popen(
            [sys.executable, "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what fails in it is done again here, and said then
            creationflags=_NO_WINDOW if sys.platform == "win32" else 0,
        )
        with suppress(*_GONE):
            self._send((manner, limits, overlong))

    def is_ready(self) -> bool:
        """Waits until it has the vocabulary; False where it ended before."""
        try:
            return bool(self._receive() == "ready")
        except _GONE:
            return False

    def make(self, rows: Sequence[Record | BadRow]) -> list[Made]:
        """`rows` made. Raises EngineError where the process ended, or could not make one."""
        try:
            self._send(rows)
            answers = self._receive()
        except _GONE:
            answers = None
        if answers is None:
            self.close()
            raise EngineError("a process that tokenizes ended")
        return [_unpacked(row, one) for row, one in zip(rows, answers, strict=True)]

    def close(self) -> None:
        """Kill it, whatever it is at. More than once does nothing more."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            with suppress(*_GONE):  # closing writes what is left, and nobody reads it
                assert pipe is not None
                pipe.close()

    def _send(self, value: Any) -> None:
        assert self._child.stdin is not None
        pickle.dump(value, self._child.stdin, pickle.HIGHEST_PROTOCOL)
        self._child.stdin.flush()

    def _receive(self) -> Any:
        assert self._child.stdout is not None
        return pickle.load(self._child.stdout)


def _packed(made: Made) -> _Packed:
    """Without the row, which the parent has; tokens in four bytes each."""
    return (
        _packed_ids(made.sequences),
        None if made.parts is None else _packed_ids(made.parts),
        made.tokens,
        made.has_marks,
        made.bad,
    )


def _packed_ids(found: Sequence[Encoded]) -> list[tuple[array[int], list[tuple[int, int]]]]:
    return [(array("i", one.ids), one.spans) for one in found]


def _unpacked(row: Record | BadRow, packed: _Packed) -> Made:
    sequences, parts, tokens, has_marks, bad = packed
    made = Made(row, _encoded(sequences), None, tokens, has_marks, bad)
    if parts is not None:
        made.parts = _encoded(parts)
    return made


def _encoded(packed: Sequence[tuple[array[int], list[tuple[int, int]]]]) -> list[Encoded]:
    return [Encoded(ids.tolist(), spans) for ids, spans in packed]


def main() -> None:
    """Rows from stdin, what is made of them to stdout, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides: it kills
    rows, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nobody else writes to the parent

    def send(value: Any) -> None:
        pickle.dump(value, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()

    try:
        manner, limits, overlong = pickle.load(rows)
        with Dialect.like(manner) as dialect:
            send("ready")
            while True:
                batch = pickle.load(rows)
                send([_packed(make(row, dialect, limits, overlong)) for row in batch])
    except _GONE:  # there is no parent any more
        os._exit(0)
