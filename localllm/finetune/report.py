"""A run as one HTML page: curves, before and after, answers, everything it was made of."""

from __future__ import annotations

from pathlib import Path

from localllm.finetune.outcome.result import Tuned
from localllm.finetune.shown import loss_plot, recipe_section
from localllm.ui import Bytes, Count, Fields, Percent, Rate, Seconds, Table
from localllm.ui.outfile import replace_file
from localllm.ui.page import Block, Folded, Page, Section, render_page
from localllm.ui.view import AnyCell


def write_report(done: Tuned, path: Path) -> None:
    """Write the page. Raises what `replace_file` raises."""
    replace_file(path, render_page(page_of(done)))


def page_of(done: Tuned) -> Page:
    sections = [Section("Result", _result(done))]
    plot = loss_plot(done.losses, done.held_out)
    if plot is not None:
        intro = "Of the training examples at each step, and of the examples held back."
        sections.append(Section("Loss", [plot], intro))
    if done.samples:
        rows = [[one.prompt, one.before, one.after] for one in done.samples]
        intro = "The same prompts, answered by llama.cpp with the likeliest token each time."
        sections.append(Section("Answers", [Table(["prompt", "before", "after"], rows)], intro))
    if done.along:
        rows_along: list[list[AnyCell]] = [
            [one.step, one.sample.prompt, one.sample.answer] for one in done.along
        ]
        table = Table(["step", "prompt", "answer"], rows_along)
        sections.append(Section("Answers along the way", [Folded("Show", table)]))
    sections.append(recipe_section(done.recipe))
    return Page(
        title=f"{done.name}: tuned from {done.base}",
        subtitle=f"{done.method}, {done.objective}, {Count(done.n_examples)} examples",
        sections=sections,
        data=done.figures(),
        data_name="finetune.json",
        footer="Made by localllm finetune. Losses in nats a predicted token.",
    )


def _result(done: Tuned) -> list[Block]:
    learned = done.learned
    facts: list[tuple[str, AnyCell]] = [
        ("steps", f"{learned.steps} of {learned.planned_steps}, kept: {learned.kept_step}"),
        ("took", Seconds(learned.seconds)),
        ("speed", Rate(learned.tokens_per_s)),
        ("memory", Bytes(learned.peak_bytes)),
        ("file", Bytes(done.file_bytes)),
        ("numbers that learned", Count(done.n_params)),
        ("chat template", done.template),
    ]
    blocks: list[Block] = [Fields(facts)]
    if done.judged is not None:
        before, after = done.judged.before, done.judged.after
        rows: list[list[AnyCell]] = [
            ["held-out loss", before.loss, after.loss],
            ["perplexity", before.perplexity, after.perplexity],
        ]
        if (chosen := done.judged.preferred_before) is not None:
            now = done.judged.preferred_after
            rows.append(["prefers the chosen answer", Percent(chosen), Percent(now or 0.0)])
        blocks.insert(0, Table(["by llama.cpp", "before", "after"], rows))
    return blocks
