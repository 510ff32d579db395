"""convert: a Hugging Face model made into a GGUF."""

from __future__ import annotations

from typing import Annotated

import typer

from localllm.errors import Interrupted, UsageProblem
from localllm.library import ModelName
from localllm.library.conversion import Converted, ConvertRequest, convert
from localllm.library.conversion_subject import find_subject
from localllm.registry import Registry
from localllm.ui import Bytes, Fields, Seconds, Sink, View
from localllm.ui.view import Note


def convert_command(
    model: ModelName,
    outtype: Annotated[
        str,
        typer.Option(
            "--outtype",
            metavar="auto|f32|f16|bf16|q8_0|tq1_0|tq2_0",
            help="The type of the matrices; auto keeps 16-bit ones as they are, tq1_0 and tq2_0 "
            "are for ternary models.",
        ),
    ] = "auto",
    mmproj: Annotated[
        bool,
        typer.Option("--mmproj", help="The vision or audio part, a file of its own."),
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="MODEL|FOLDER",
            help="An adapter's base model; its config.json is enough. Default: the one that it "
            "names, where that is here.",
        ),
    ] = None,
    pre_tokenizer: Annotated[
        str | None,
        typer.Option(
            "--pre-tokenizer",
            metavar="NAME",
            help="Split text as this known model does (gpt-2, llama-bpe, qwen2), where "
            "the converter does not know the model's own way.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="What to call the result.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, say about how large, write nothing.")
    ] = False,
    *,
    sink: Sink,
) -> None:
    """Make a GGUF of a Hugging Face model, adapter or vision part (safetensors)."""
    from localllm.formats.convert import OUT_TYPES

    chosen = next((t for t in OUT_TYPES if t == outtype.lower()), None)
    if chosen is None:
        raise UsageProblem(f"{outtype!r} is none of {', '.join(OUT_TYPES)}")
    registry = Registry.open()
    subject = find_subject(model, registry, mmproj=mmproj, base=base)
    if subject.kind == "adapter" and chosen.startswith("tq"):
        raise UsageProblem(f"adapters are not stored as {chosen}", "--outtype f16")
    request = ConvertRequest(chosen, pre_tokenizer, name)
    try:
        done = convert(subject, request, registry, sink.progress, sink.note, dry_run=dry_run)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing was registered") from None
    sink.show(done, _converted)


def _converted(c: Converted) -> View:
    facts = Fields(
        [
            ("model", c.name if c.model else f"{c.name} (not written)"),
            ("from", c.source),
            ("kind", c.kind),
            ("type", c.type),
            ("file", Bytes(c.file_bytes) if c.model else f"about {Bytes(c.file_bytes)}"),
            ("took", Seconds(c.elapsed_s) if c.elapsed_s else None),
            ("path", None if c.model is None else str(c.model.path)),
        ]
    )
    return [facts, Note("already made")] if c.reused else facts
