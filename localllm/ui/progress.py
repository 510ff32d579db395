"""Progress of long work, on stderr: bars for people, JSON lines for programs, or silence.

with progress.bytes("download x.gguf", total=size) as advance:
    advance(len(block))
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

from localllm.ui.units import Bytes, Count, Rate, Seconds

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

Advance = Callable[[int], None]


class Meter(Protocol):
    """An `Advance` that can also say how it stands, as in "PPL 21.1"; kept until the next."""

    def __call__(self, amount: int, note: str = "", /) -> None: ...


Unit = Literal["bytes", "steps"]
ProgressMode = Literal["auto", "plain", "json", "none"]


class Progress(Protocol):
    """`total` None where it is not known. The advance function may be called from any thread."""

    def bytes(self, label: str, total: int | None) -> AbstractContextManager[Meter]: ...

    def steps(self, label: str, total: int | None) -> AbstractContextManager[Meter]: ...

    def event(self, name: str, values: Mapping[str, Any]) -> None:
        """Figures for programs that read along: a JSON line, nothing for people."""


class _Meters:
    """Shared by the implementations: both units are one meter."""

    def event(self, name: str, values: Mapping[str, Any]) -> None:
        """Only JSON lines say it."""

    def bytes(self, label: str, total: int | None) -> AbstractContextManager[Meter]:
        return self.meter(label, total, "bytes")

    def steps(self, label: str, total: int | None) -> AbstractContextManager[Meter]:
        return self.meter(label, total, "steps")

    def meter(self, label: str, total: int | None, unit: Unit) -> AbstractContextManager[Meter]:
        raise AssertionError("each kind of progress has its own meter")


class Silent(_Meters):
    """Says nothing."""

    @contextmanager
    def meter(self, label: str, total: int | None, unit: Unit) -> Iterator[Meter]:
        yield lambda amount, note="": None


class PlainProgress(_Meters):
    """For logs: a line when work starts that lasts, one every `interval_s`, one at its end."""

    def __init__(self, file: TextIO, interval_s: float = 10.0, quiet_s: float = 2.0) -> None:
        self._file, self._interval_s, self._quiet_s = file, interval_s, quiet_s

    @contextmanager
    def meter(self, label: str, total: int | None, unit: Unit) -> Iterator[Meter]:
        began = last = time.monotonic()
        done, stands = 0, ""
        said = False

        def advance(amount: int, note: str = "", /) -> None:
            nonlocal done, last, said, stands
            done, stands = done + amount, note or stands
            now = time.monotonic()
            if now - last >= (self._interval_s if said else self._quiet_s):
                last, said = now, True
                self._say(label, done, total, unit, now - began, stands)

        yield advance
        if said:
            self._say(label, done, total, unit, time.monotonic() - began, stands)

    def _say(
        self, label: str, done: int, total: int | None, unit: Unit, took: float, note: str
    ) -> None:
        amount = Bytes if unit == "bytes" else Count
        of = f" of {amount(total)}" if total else ""
        rate = Rate(done / took, "B/s" if unit == "bytes" else "/s") if took > 0 else ""
        left = ""
        if total and 0 < done < total:
            left = f", {Seconds(took / done * (total - done))} left"
        stands = f"; {note}" if note else ""
        print(f"{label}: {amount(done)}{of}, {rate}{left}{stands}", file=self._file, flush=True)


class JsonProgress(_Meters):
    """One JSON object a line, at most ten a second a meter, and always the first and last."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    @contextmanager
    def meter(self, label: str, total: int | None, unit: Unit) -> Iterator[Meter]:
        began = last = time.monotonic()
        done, stands = 0, ""
        self._say("start", label, done, total, unit, 0.0, stands)

        def advance(amount: int, note: str = "", /) -> None:
            nonlocal done, last, stands
            done, stands = done + amount, note or stands
            now = time.monotonic()
            if now - last >= 0.1:
                last = now
                self._say("progress", label, done, total, unit, now - began, stands)

        yield advance
        self._say("done", label, done, total, unit, time.monotonic() - began, stands)

    def event(self, name: str, values: Mapping[str, Any]) -> None:
        line = {"event": name, **values}
        print(json.dumps(line, allow_nan=False), file=self._file, flush=True)

    def _say(
        self, event: str, label: str, done: int, total: int | None, unit: Unit, took: float,
        note: str,
    ) -> None:  # fmt: skip
        line = {"event": event, "label": label, "unit": unit, "done": done, "total": total}
        line |= {"elapsed_s": round(took, 3)} | ({"note": note} if note else {})
        print(json.dumps(line), file=self._file, flush=True)


class RichBars(_Meters):
    """Bars on a terminal; several at once share one display."""

    def __init__(self, file: TextIO, no_color: bool) -> None:
        self._file, self._no_color = file, no_color
        self._bars: RichProgress | None = None
        self._running = 0

    @contextmanager
    def meter(self, label: str, total: int | None, unit: Unit) -> Iterator[Meter]:
        bars = self._start()
        task = bars.add_task(label, total=total, unit=unit, note="")

        def advance(amount: int, note: str = "", /) -> None:
            bars.advance(task, amount)
            if note:
                bars.update(task, note=note)

        try:
            yield advance
        finally:
            bars.remove_task(task)
            self._stop(bars)

    def _start(self) -> RichProgress:
        if self._bars is None:
            self._bars = _rich_bars(self._file, self._no_color)
            self._bars.start()
        self._running += 1
        return self._bars

    def _stop(self, bars: RichProgress) -> None:
        self._running -= 1
        if self._running == 0:
            bars.stop()
            self._bars = None


def _rich_bars(file: TextIO, no_color: bool) -> RichProgress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        ProgressColumn,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Amount(ProgressColumn):
        def render(self, task: Task) -> Text:
            unit = Bytes if task.fields["unit"] == "bytes" else Count
            done = unit(int(task.completed))
            return Text(f"{done}" if task.total is None else f"{done} / {unit(int(task.total))}")

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            if not task.speed:
                return Text("")
            return Text(str(Rate(task.speed, "B/s" if task.fields["unit"] == "bytes" else "/s")))

    console = Console(file=file, no_color=no_color or None, highlight=False)
    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        Amount(),
        Speed(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
    )


def make(mode: ProgressMode, file: TextIO | None, no_color: bool) -> Progress:
    """The progress for `mode`; `auto` draws bars only where `file` is a terminal."""
    if file is None or mode == "none":
        return Silent()
    if mode == "json":
        return JsonProgress(file)
    if mode == "auto" and file.isatty():
        return RichBars(file, no_color)
    return PlainProgress(file)
