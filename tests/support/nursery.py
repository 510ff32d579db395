"""Commands in processes that start at once and can be killed at any moment of their work.

A Python process that has imported everything forks a child for each command, so a command
costs its own work and not half a second of imports. A child has the environment that the
test has when it asks. POSIX only.

    with Nursery(log) as nursery:
        nursery.run(["list"])                       # its exit status
        nursery.kill(["pull", "org/m"], after_s=0.1)  # None, or the status if it was done before
        nursery.together([[["list"], ["rm", "a"]], [["prune", "--yes"]]])  # processes at once
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

Command = Sequence[str]

_CODE = """
import importlib, json, os, signal, sys, time

from localllm import cli
from localllm.engine import build

for _, entry in cli.leaves(cli.COMMANDS):
    importlib.import_module("localllm." + entry.target.partition(":")[0])
for heavy in ("huggingface_hub", "httpx2", "filelock", "sqlite3", "localllm.sources.hub"):
    importlib.import_module(heavy)
build.devices()


def begin(commands, env):
    pid = os.fork()
    if pid:
        return pid
    os.environ.clear()
    os.environ.update(env)
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    worst = 0
    try:
        for command in commands:
            status = cli.main(command)
            sys.stdout.flush()
            allowed = (0, 3) if len(commands) > 1 else (0,)
            if status not in allowed:
                print(f"^^^ {command} ended with {status}", flush=True)
                worst = worst or status
    finally:
        os._exit(worst)


def wait(pid, until):
    while True:
        done, status = os.waitpid(pid, os.WNOHANG if until else 0)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            os.kill(pid, signal.SIGKILL)
            until = 0
        else:
            time.sleep(0.001)


for line in sys.stdin:
    asked = json.loads(line)
    began = time.monotonic()
    if "together" in asked:
        pids = [begin(commands, asked["env"]) for commands in asked["together"]]
        answer = [wait(pid, 0) for pid in pids]
    else:
        after = asked.get("after_s")
        pid = begin([asked["command"]], asked["env"])
        answer = wait(pid, began + after if after is not None else 0)
    print(json.dumps([answer, time.monotonic() - began]), flush=True)
"""


class Nursery:
    """`log` is a file that what the commands print goes to, for when a test fails."""

    def __init__(self, log: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", _CODE, log],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.log = log
        self.took_s = 0.0  # by the last command

    def run(self, command: Command) -> int:
        return int(self._ask(command=list(command)))

    def kill(self, command: Command, after_s: float) -> int | None:
        """SIGKILL after `after_s` seconds; the status if it had ended by then."""
        status = int(self._ask(command=list(command), after_s=after_s))
        return None if status < 0 else status

    def together(self, workers: Sequence[Sequence[Command]]) -> list[int]:
        """Each worker's commands one after the other, all workers at once. The first status of
        each that is neither 0 nor 3 (not found: another one was faster), else 0."""
        found: list[int] = self._ask(together=[[list(c) for c in w] for w in workers])
        return found

    def _ask(self, **what: Any) -> Any:
        assert self._child.stdin is not None and self._child.stdout is not None
        print(json.dumps({**what, "env": dict(os.environ)}), file=self._child.stdin, flush=True)
        answer, self.took_s = json.loads(self._child.stdout.readline())
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.kill()
        self._child.communicate()
