"""route label."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localllm import config
from localllm.errors import EngineError, ExitCode, UsageProblem
from localllm.registry import Registry
from localllm.route.cli import Name
from localllm.route.judging import DEFAULT_RUBRIC
from localllm.route.labelling import Labelled, LabelOptions, label, read_tasks
from localllm.route.naming import parse_named
from localllm.route.opening import open_members
from localllm.ui import Count, Fields, Percent, Sink, View
from localllm.ui.outfile import check_place
from localllm.ui.view import AnyCell


def label_command(
    name: Name,
    prompts: Annotated[
        Path,
        typer.Option("--prompts", metavar="FILE", help="JSON lines: prompt, and answer if known."),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where lines go; goes on with an old one.")
    ],
    member: Annotated[
        list[str] | None,
        typer.Option("--member", metavar="NAME", help="Only these members; repeat it."),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", metavar="MEMBER", help="Who judges; else `answer` is compared."),
    ] = None,
    rubric: Annotated[
        str, typer.Option("--rubric", metavar="TEXT", help="What a good answer is, to the judge.")
    ] = DEFAULT_RUBRIC,
    at_once: Annotated[
        int, typer.Option("--at-once", min=1, max=64, help="Answers computed together.")
    ] = 4,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1)] = 512,
    n_ctx: Annotated[
        int | None, typer.Option("--ctx", min=1, help="Context of members that run here.")
    ] = None,
    *,
    sink: Sink,
) -> None:
    """Let the members answer prompts, judge them, and write what a router is trained on."""
    check_place(out)
    registry, settings = Registry.open(), config.load()
    opened = open_members(registry, parse_named(name).name)
    answering = [one.name for one in opened.spec.members if one.kind != "human"]
    members = tuple(dict.fromkeys(member or answering))
    for one in (*members, *((judge,) if judge else ())):
        if opened.spec.member(one).kind == "human":
            raise UsageProblem(f"{one} is a person: only models answer in batches")
    options = LabelOptions(
        members, judge, rubric, at_once, max_tokens, n_ctx or settings.n_ctx, settings.threads
    )
    done = label(registry, opened, read_tasks(prompts), out, options, sink.progress)
    if done.failed:
        sink.warn(f"{done.failed} did not come ({done.why_failed}); run it again for those")
    if done.n_answers:
        sink.note(f"train on it: localllm route train {opened.name} --data {out}")
    # a script that labels and trains must not go on with nothing
    sink.show(done, _view, ok=done.n_answers > 0, exit_code=ExitCode.FAILED,
              error=None if done.n_answers else EngineError("no answer came"))  # fmt: skip


def _view(done: Labelled) -> View:
    rows: list[tuple[str, AnyCell]] = [
        ("file", str(done.path)),
        ("prompts", Count(done.n_prompts)),
        ("answers", Count(done.n_answers)),
        ("new", Count(done.n_new)),
        ("failed", done.failed or None),
    ]
    rows += [(f"quality of {name}", Percent(mean)) for name, mean in done.quality.items()]
    return Fields(rows)
