"""quantize: a model made smaller."""

from __future__ import annotations

from typing import Annotated

import typer

from localllm.errors import Interrupted
from localllm.library import ModelName, find_gguf
from localllm.quantize.quantize import Quantized, quantize
from localllm.registry import Registry
from localllm.ui import Bytes, Fields, Heading, Percent, Seconds, Sink, Table, View
from localllm.ui.view import Note


def quantize_command(
    model: ModelName,
    type: Annotated[
        str, typer.Argument(metavar="TYPE", help="Q4_K_M, Q3_K_S, Q8_0, F16 and so on.")
    ],
    name: Annotated[str | None, typer.Option("--name", help="What to call the result.")] = None,
    allow_requantize: Annotated[
        bool,
        typer.Option(
            "--allow-requantize", help="Take a source that is quantized already (loses quality)."
        ),
    ] = False,
    output_type: Annotated[
        str | None, typer.Option("--output-type", help="The output tensor's type.")
    ] = None,
    embedding_type: Annotated[
        str | None, typer.Option("--embedding-type", help="The token embedding's type.")
    ] = None,
    pure: Annotated[bool, typer.Option("--pure", help="One type for all tensors.")] = False,
    leave_output: Annotated[
        bool, typer.Option("--leave-output", help="Keep the output tensor as it is.")
    ] = False,
    threads: Annotated[int, typer.Option("--threads", "-t", min=0, help="0: all cores.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show every change and the size, write nothing.")
    ] = False,
    *,
    sink: Sink,
) -> None:
    """Make a model smaller."""
    from localllm.engine.quantize import QuantizeOptions

    registry = Registry.open()
    options = QuantizeOptions(
        ftype=type,
        output_type=output_type,
        token_embedding_type=embedding_type,
        pure=pure,
        leave_output=leave_output,
        allow_requantize=allow_requantize,
        n_threads=threads,
    )
    try:
        result = quantize(
            find_gguf(model, registry), options, registry, sink.progress, sink.note,
            name=name, dry_run=dry_run,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing was registered") from None
    if result.fallbacks:
        sink.warn(
            f"{len(result.fallbacks)} tensors have rows that the type does not divide, and take "
            f"another: {result.fallbacks[0]} is the first"
        )
    sink.show(result, _quantized)


def _quantized(q: Quantized) -> View:
    share = Percent(q.after_bytes / q.before_bytes) if q.before_bytes else None
    facts = Fields(
        [
            ("model", q.name if q.model else f"{q.name} (not written)"),
            ("from", q.source),
            ("type", q.type),
            ("size", f"{Bytes(q.after_bytes)}, {share} of {Bytes(q.before_bytes)}"),
            ("bits per weight", q.bits_per_weight),
            ("took", None if q.reused else Seconds(q.elapsed_s)),
            ("path", None if q.model is None else str(q.model.path)),
        ]
    )
    if q.reused:
        return [facts, Note("already made")]
    rows = [
        (c.from_type, c.to_type, c.tensors, Bytes(c.before_bytes), Bytes(c.after_bytes))
        for c in q.changes
    ]
    return [facts, Heading("Tensors"), Table(("from", "to", "tensors", "before", "after"), rows)]
