"""A model from scratch as one HTML page: what it is worth, curves, samples, all it is made of."""

from __future__ import annotations

from pathlib import Path

from localllm.finetune.scratch.result import Trained
from localllm.finetune.scratch.view import data_facts, judged_table, plan_facts
from localllm.finetune.shown import loss_plot, recipe_section
from localllm.ui import Bytes, Fields, Rate, Seconds, Table
from localllm.ui.outfile import replace_file
from localllm.ui.page import Folded, Page, Section, render_page
from localllm.ui.view import AnyCell


def write_report(done: Trained, path: Path) -> None:
    """Write the page. Raises what `replace_file` raises."""
    replace_file(path, render_page(page_of(done)))


def page_of(done: Trained) -> Page:
    learned = done.learned
    facts: list[tuple[str, AnyCell]] = [
        *data_facts(done.data),
        *plan_facts(done.plan),
        ("trained", f"{learned.steps} of {learned.planned_steps} steps, kept: {learned.kept_step}"),
        ("took", Seconds(learned.seconds)),
        ("speed", Rate(learned.tokens_per_s)),
        ("memory", Bytes(learned.peak_bytes)),
        ("file", Bytes(done.file_bytes)),
        ("chat template", done.template),
    ]
    sections = [Section("Result", [judged_table(done), Fields(facts)])]
    plot = loss_plot(done.losses, done.held_out)
    if plot is not None:
        intro = "Of the training text at each step, and of the text held back."
        sections.append(Section("Loss", [plot], intro))
    if done.samples:
        rows: list[list[AnyCell]] = [[one.prompt, one.answer] for one in done.samples]
        intro = "Written by llama.cpp with the file, tokens drawn at a temperature of 0.7."
        sections.append(Section("What it writes", [Table(["after", "it writes"], rows)], intro))
    if done.along:
        along: list[list[AnyCell]] = [
            [one.step, one.sample.prompt, one.sample.answer] for one in done.along
        ]
        table = Table(["step", "after", "it wrote"], along)
        sections.append(Section("Along the way", [Folded("Show", table)]))
    sections.append(recipe_section(done.recipe))
    return Page(
        title=f"{done.name}: trained from scratch",
        subtitle=f"{done.plan.n_params / 1e6:.1f} million parameters",
        sections=sections,
        data=done.figures(),
        data_name="train.json",
        footer="Made by localllm train. Losses in nats a token.",
    )
