"""Members answer prompts in batches, and their answers are judged: data to train on.

Every judged answer is a line of the output file as soon as it is there; stopped and started again
it goes on where it was. Lines are in the form that `route train --data` reads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from localllm.endpoints import Wanted
from localllm.errors import DamagedFile, LocalLLMError, UsageProblem
from localllm.generation import Message, Sampling
from localllm.registry import Registry
from localllm.route.answering.alone import alone
from localllm.route.answering.measuring import measure_weak
from localllm.route.answering.members import Members
from localllm.route.answering.opening import LocalWishes, OwnLender
from localllm.route.answering.routed import RoutedGenerator
from localllm.route.judging import DEFAULT_RUBRIC, Task, exact, judged
from localllm.route.opening import OpenRouter
from localllm.route.pool.steps import CascadeStep
from localllm.route.reading.jsonl import objects
from localllm.ui import Progress

_REFERENCES = ("answer", "reference", "target")


@dataclass(frozen=True)
class LabelOptions:
    """`judge` None compares with the references; else the member who judges, by `rubric`.
    `at_once` answers are computed together."""

    members: tuple[str, ...]
    judge: str | None = None
    rubric: str = DEFAULT_RUBRIC
    at_once: int = 4
    max_tokens: int = 512
    n_ctx: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Labelled:
    """`quality` is the mean of each member, of all lines of the file. `failed` answers or verdicts
    did not come: run it again for those."""

    path: Path
    n_prompts: int
    n_answers: int
    n_new: int
    failed: int
    why_failed: str | None
    quality: dict[str, float]


def read_tasks(path: Path) -> tuple[Task, ...]:
    """JSON lines with `prompt`, and optionally answer, domain (subject), benchmark (source).
    Raises FileGone, DamagedFile."""
    found: dict[str, Task] = {}
    for where, line in objects(path):
        prompt = line.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise DamagedFile(f"{where} has no prompt")
        reference = next((line[n] for n in _REFERENCES if line.get(n) is not None), None)
        if reference is not None and not isinstance(reference, str | int | float):
            raise DamagedFile(f"{where}: its answer is no text")
        texts = [line.get(a) or line.get(b) or "" for a, b in
                 (("domain", "subject"), ("benchmark", "source"))]  # fmt: skip
        if not all(isinstance(text, str) for text in texts):
            raise DamagedFile(f"{where}: its domain or benchmark is no text")
        known = None if reference is None else str(reference)
        found.setdefault(prompt, Task(prompt, known, *texts))
    if not found:
        raise UsageProblem(f"{path} has no prompts")
    return tuple(found.values())


def label(
    registry: Registry, opened: OpenRouter, tasks: Sequence[Task], out: Path,
    options: LabelOptions, progress: Progress,
) -> Labelled:  # fmt: skip
    """Raises UsageProblem where there is nothing to judge by; Ctrl-C keeps what is done."""
    if options.judge is None and any(task.reference is None for task in tasks):
        raise UsageProblem(
            "some prompts have no `answer` to compare with", "--judge MEMBER lets a model judge"
        )
    step = _measured_step(opened)
    by = {name: who(opened, name) for name in options.members}
    known = _done(out, step, by)
    todo = [(m, t) for m in options.members for t in tasks if (t.prompt, m) not in known]
    n_new, failures = 0, []
    at_once = max(options.at_once, step.samples if step is not None else 1)
    lender = OwnLender(LocalWishes(options.n_ctx, options.threads, at_once), progress)
    doors = Members(opened.name, opened.spec, opened.standings, registry, lender)
    with _appending(out) as file, doors, progress.steps("label", len(todo)) as advance:
        for member in options.members:
            mine = [task for name, task in todo if name == member]
            work = _worker(registry, opened, doors, member, options)
            for task, answer in _in_parallel(work, mine, options.at_once):
                advance(1)
                if isinstance(answer, LocalLLMError):
                    failures.append(f"{member}: {answer.message}")
                    continue
                _write(file, task, member, by[member], answer)
                known[task.prompt, member] = answer.quality
                n_new += 1
    wanted = {task.prompt for task in tasks}
    means = {}
    for member in options.members:
        values = [q for (p, m), q in known.items() if m == member and p in wanted]
        if values:
            means[member] = sum(values) / len(values)
    return Labelled(
        out.absolute(), len(tasks), sum(1 for p, _ in known if p in wanted), n_new, len(failures),
        failures[0] if failures else None, means,
    )  # fmt: skip


@dataclass(frozen=True)
class Judgement:
    """`signals` of how sure it was, of a cascade's weak member."""

    text: str
    quality: float
    signals: Mapping[str, float] = field(default_factory=dict)


Answered = Judgement | LocalLLMError


def _worker(
    registry: Registry, opened: OpenRouter, doors: Members, member: str, options: LabelOptions
) -> Callable[[Task], Answered]:
    answering = alone(registry, opened, doors, member)
    judge = None if options.judge is None else alone(registry, opened, doors, options.judge)
    step = _measured_step(opened)

    def work(task: Task) -> Answered:
        signals: Mapping[str, float] = {}
        try:
            if step is not None and member == step.weak:
                messages = (Message("user", task.prompt),)
                measured = measure_weak(doors, step, messages, options.max_tokens)
                text, signals = measured.text.strip(), measured.signals
            else:
                text = _ask(answering, task.prompt, options.max_tokens)
            if judge is None:
                return Judgement(text, exact(text, task.reference or ""), signals)
            quality = judged(task, text, lambda q: _ask(judge, q, 8), options.rubric)
        except LocalLLMError as error:
            return error
        if quality is None:
            return UsageProblem(f"{options.judge} gave no number from 1 to 5")
        return Judgement(text, quality, signals)

    return work


def _measured_step(opened: OpenRouter) -> CascadeStep | None:
    """The step whose weak member's signals are kept; one behind a tunnel is asked like others."""
    step = opened.spec.last
    if not isinstance(step, CascadeStep) or opened.standings[step.weak].outside:
        return None
    return step


def _ask(generator: RoutedGenerator, prompt: str, max_tokens: int) -> str:
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
    wanted = Wanted(
        messages=(Message("user", prompt),), sampling=sampling,
        given=frozenset(("temperature", "max_tokens")),
    )  # fmt: skip
    return generator.ask(wanted).text().strip()


def _in_parallel(
    work: Callable[[Task], Answered], tasks: Sequence[Task], at_once: int
) -> Iterator[tuple[Task, Answered]]:
    """As they are done. Left early (Ctrl-C) it waits for those under way alone."""
    waiting = iter(tasks)
    running: dict[Future[Answered], Task] = {}
    with ThreadPoolExecutor(at_once, "localllm-label") as pool:
        try:
            while True:
                while len(running) < at_once and (task := next(waiting, None)) is not None:
                    running[pool.submit(work, task)] = task
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    yield running.pop(one), one.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def who(opened: OpenRouter, member: str) -> str:
    """What answers under a member's name, and of a model which weights: its name, its adapters,
    and the beginning of its digest."""
    standing = opened.standings[member]
    digest = standing.model.digest if standing.model is not None else None
    remote = standing.endpoint.model if standing.endpoint is not None else None
    more = [*standing.member.adapters, *([digest[:12]] if digest else []), remote or ""]
    return " ".join([standing.answers, *filter(None, more)])


def _done(
    out: Path, step: CascadeStep | None, by: Mapping[str, str]
) -> dict[tuple[str, str], float]:
    """(prompt, member) of every line that is whole, with its quality. The weak member's without
    the signals that the cascade looks at are not. Raises UsageProblem for answers by another
    than `by` has under the member's name: one name would stand for two models."""
    if not out.is_file():  # a device or pipe has nothing to go on with, and no end
        return {}
    found: dict[tuple[str, str], float] = {}
    for where, line in objects(_whole_lines(out)):
        outcomes, prompt = line.get("outcomes"), line.get("prompt")
        if not isinstance(outcomes, dict) or not isinstance(prompt, str):
            raise DamagedFile(f"{where} is none of `route label`'s: name another --out")
        for name, quality in outcomes.items():
            theirs = line.get("by", by.get(name))  # files of before have none
            if name in by and not _is_same(str(theirs), by[name]):
                raise UsageProblem(
                    f"{where}: {name} was {str(theirs)[:100]} then, and is {by[name]} now",
                    "name another --out",
                )
            if step is not None and name == step.weak and not _has_signals(line, step):
                continue
            if isinstance(quality, int | float):
                found[prompt, str(name)] = float(quality)
    return found


def _is_same(one: str, other: str) -> bool:
    """Where one was not hashed yet there is no digest to compare."""
    pairs = zip(one.split(), other.split(), strict=False)
    return all(first == second for first, second in pairs)


def _has_signals(line: Mapping[str, Any], step: CascadeStep) -> bool:
    signals = line.get("signals")
    return isinstance(signals, dict) and all(name in signals for name in step.signals)


def _whole_lines(out: Path) -> Path:
    """Cut what a killed process had not finished to write."""
    content = out.read_bytes()
    if content and not content.endswith(b"\n"):
        with out.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
    return out


@contextmanager
def _appending(out: Path) -> Iterator[TextIO]:
    try:
        file = out.open("a", encoding="utf-8")
    except OSError as error:
        raise UsageProblem(f"{out} cannot be written: {error.strerror}") from None
    with file:
        yield file


def _write(file: TextIO, task: Task, member: str, by: str, answer: Judgement) -> None:
    line: dict[str, Any] = {
        "prompt": task.prompt, "outcomes": {member: answer.quality}, "answer": answer.text,
        "by": by,
    }  # fmt: skip
    if answer.signals:
        line["signals"] = {name: round(value, 6) for name, value in answer.signals.items()}
    if task.domain:
        line["domain"] = task.domain
    if task.benchmark:
        line["benchmark"] = task.benchmark
    safe = json.dumps(line, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
    file.write(safe + "\n")
    file.flush()
    with suppress(OSError):  # a pipe or device has nothing to be synced
        os.fsync(file.fileno())
