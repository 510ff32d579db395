"""quickstart: the main job on a small real model, step by step."""

from __future__ import annotations

from typing import Annotated

import typer

from localllm.quickstart.steps import (
    MODEL,
    PROMPT,
    SMALLER,
    Step,
    StepDone,
    run_quietly,
    run_shown,
    tour,
)
from localllm.registry import Registry
from localllm.ui import Heading, Sink
from localllm.ui.view import Note, Text


def quickstart_command(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="REF",
            help="What to pull; on a machine that reaches Hugging Face also "
            "hf:ggml-org/gemma-3-270m-it-GGUF:Q8_0.",
        ),
    ] = MODEL,
    smaller: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="The type to quantize to.")
    ] = SMALLER,
    prompt: Annotated[str, typer.Option("--prompt", help="What to generate from.")] = PROMPT,
    *,
    sink: Sink,
) -> None:
    """Pull a small real model, check that it fits, quantize, bench and chat."""
    if sink.as_json:
        sink.show(tour(Registry.open(), model, smaller, prompt, run_quietly))
        return
    number = 0

    def run(step: Step) -> StepDone:
        nonlocal number
        number += 1
        sink.present([Heading(f"{number}. {step.title}"), Text(f"$ {step.command}")])
        done = run_shown(step)
        sink.write("\n")
        return done

    result = tour(Registry.open(), model, smaller, prompt, run)
    sink.show(
        result,
        lambda r: Note(f"Next: localllm chat {r.quantized}, or localllm --help", "good"),
    )
