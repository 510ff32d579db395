"""Asking the user whether a call may run."""

from __future__ import annotations

import sys
from collections.abc import Callable

from localllm.chat.tools.box import Decision
from localllm.ui import Sink, keys_seen

_ANSWERS: dict[str, Decision] = {
    "y": "yes", "yes": "yes", "a": "always", "always": "always", "n": "no", "no": "no",
}  # fmt: skip


def asker(sink: Sink, yes: bool) -> Callable[[str], Decision]:
    """Shows each call and asks at the terminal; where nobody can be asked, and with nothing said
    (Enter, the end of the input), it does not run."""

    def decide(call: str) -> Decision:
        if yes:
            sink.note(f"calls {call}")
            return "yes"
        if sys.stdin is None or not sys.stdin.isatty() or sink.as_json:
            sink.warn(f"{call} was not run: nobody can be asked (--yes-tools runs it)")
            return "no"
        while True:
            with keys_seen():
                sink.aside(f"run {call} ? [y]es, [n]o, [a]lways this tool: ")
                line = sys.stdin.readline()
            if not line.strip():
                sink.note("not run")
                return "no"
            if (found := _ANSWERS.get(line.strip().lower())) is not None:
                return found

    return decide
