"""Members answer prompts in batches, and their answers are judged: data to train on.

Every judged answer is a line of the output file as soon as it is there; stopped and started again
it goes on where it was. Lines are in the form that `route train --data` reads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from localllm.endpoints import Wanted
from localllm.errors import DamagedFile, LocalLLMError, UsageProblem
from localllm.generation import Message, Sampling
from localllm.registry import Registry
from localllm.route.answering.members import Members
from localllm.route.answering.opening import LocalWishes, OwnLender
from localllm.route.answering.routed import RoutedGenerator
from localllm.route.deciding.decider import Decider
from localllm.route.judging import DEFAULT_RUBRIC, Task, exact, judged
from localllm.route.opening import OpenRouter
from localllm.route.pool.spec import Fallback
from localllm.route.pool.steps import AlwaysStep
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
    known = _done(out)
    todo = [(m, t) for m in options.members for t in tasks if (t.prompt, m) not in known]
    n_new, failures = 0, []
    lender = OwnLender(LocalWishes(options.n_ctx, options.threads, options.at_once), progress)
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
                text, quality = answer
                _write(file, task, member, text, quality)
                known[task.prompt, member] = quality
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


Answered = tuple[str, float] | LocalLLMError


def _worker(
    registry: Registry, opened: OpenRouter, doors: Members, member: str, options: LabelOptions
) -> Callable[[Task], Answered]:
    answering = _only(registry, opened, doors, member)
    judge = None if options.judge is None else _only(registry, opened, doors, options.judge)

    def work(task: Task) -> Answered:
        try:
            text = _ask(answering, task.prompt, options.max_tokens)
            if judge is None:
                return text, exact(text, task.reference or "")
            quality = judged(task, text, lambda q: _ask(judge, q, 8), options.rubric)
        except LocalLLMError as error:
            return error
        if quality is None:
            return UsageProblem(f"{options.judge} gave no number from 1 to 5")
        return text, quality

    return work


def _only(registry: Registry, opened: OpenRouter, doors: Members, member: str) -> RoutedGenerator:
    """One member alone, with the privacy guard, and nothing kept."""
    spec = replace(opened.priced, steps=(AlwaysStep(member),), fallback=Fallback())
    alone = replace(opened, spec=spec, priced=spec, decider=Decider(spec, None))
    return RoutedGenerator(alone, None, registry, doors, keep=False)


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


def _done(out: Path) -> dict[tuple[str, str], float]:
    """(prompt, member) of every line that is whole, with its quality."""
    if not out.exists():
        return {}
    found: dict[tuple[str, str], float] = {}
    for where, line in objects(_whole_lines(out)):
        outcomes, prompt = line.get("outcomes"), line.get("prompt")
        if not isinstance(outcomes, dict) or not isinstance(prompt, str):
            raise DamagedFile(f"{where} is none of `route label`'s: name another --out")
        for name, quality in outcomes.items():
            if isinstance(quality, int | float):
                found[prompt, str(name)] = float(quality)
    return found


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


def _write(file: TextIO, task: Task, member: str, text: str, quality: float) -> None:
    line = {"prompt": task.prompt, "outcomes": {member: quality}, "answer": text}
    if task.domain:
        line["domain"] = task.domain
    if task.benchmark:
        line["benchmark"] = task.benchmark
    safe = json.dumps(line, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
    file.write(safe + "\n")
    file.flush()
    with suppress(OSError):  # a pipe or device has nothing to be synced
        os.fsync(file.fileno())
