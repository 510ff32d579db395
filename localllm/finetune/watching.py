"""Telling how a run goes: a bar for people, JSON lines for programs."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from types import TracebackType

from localllm.finetune.curves import Curves, Drawn
from localllm.finetune.training.group import Group
from localllm.finetune.training.records import EvalRecord, StepRecord
from localllm.ui import Bytes, Progress, Rate, Silent, Sink
from localllm.ui.progress import Meter

_RECENT = 20  # steps of which the rate is shown


def watcher_for(
    name: str, sink: Sink, sampler: Callable[[int], None] | None, group: Group,
    curves: Callable[[], Sequence[Curves]] = tuple,
) -> RunWatcher:  # fmt: skip
    """The watcher of a run; of processes that only help, one that says nothing and
    opens no `curves` (its `sampler` helps too)."""
    if not group.is_first:
        return RunWatcher(name, Silent(), lambda text: None, sampler)
    return RunWatcher(f"finetune {name}", sink.progress, sink.note, sampler, curves())


class RunWatcher:
    """Shows `label`'s steps on `progress` and draws them on `curves`, which it closes. `sampler`
    is asked for sample answers when due."""

    def __init__(
        self, label: str, progress: Progress, note: Callable[[str], None],
        sampler: Callable[[int], None] | None = None, curves: Sequence[Curves] = (),
    ) -> None:  # fmt: skip
        self._drawn = Drawn(list(curves), note)
        self._label, self._progress, self._note = label, progress, note
        self._sampler = sampler
        self._recent: deque[StepRecord] = deque(maxlen=_RECENT)
        self._meter: Meter | None = None
        self._held = ""
        self._stack = ExitStack()

    def __enter__(self) -> RunWatcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._drawn.close()

    def begin(self, n_steps: int, done: int) -> None:
        if done:
            self._note(f"going on after step {done} of {n_steps}")
        self._meter = self._stack.enter_context(self._progress.steps(self._label, n_steps))
        if done:
            self._meter(done)

    def step(self, record: StepRecord) -> None:
        self._recent.append(record)
        seconds = sum(one.seconds for one in self._recent)
        speed = sum(one.tokens for one in self._recent) / seconds if seconds else 0.0
        if self._meter is not None:
            loss, rate = f"loss {record.loss:.3f}", f"lr {record.learning_rate:.1e}"
            memory = Bytes(record.memory_bytes)
            self._meter(1, f"{loss}{self._held}, {rate}, {Rate(speed)}, {memory}")
        self._progress.event("step", {**asdict(record), "tokens_per_s": round(speed, 2)})
        self._drawn.step(record)

    def evaluated(self, record: EvalRecord) -> None:
        self._held = f", held out {record.loss:.3f}"
        if math.isfinite(record.loss):
            self._progress.event("evaluation", asdict(record))
            self._drawn.evaluated(record)
        if self._meter is not None:
            self._meter(0, f"step {record.step}{self._held}")

    def sample(self, step: int) -> None:
        if self._sampler is not None:
            self._sampler(step)

    def saved(self, step: int) -> None:
        self._progress.event("checkpoint", {"step": step})
