"""imatrix: which inputs of a model's weights matter, for quantizing it well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localllm.errors import UsageProblem
from localllm.imatrix.imatrix import MergedImatrix, ShownImatrix, merge, show
from localllm.library import find_gguf
from localllm.library.arguments import complete_model
from localllm.library.imatrix import (
    ImatrixOptions,
    MadeImatrix,
    QuietExperts,
    make_imatrix,
    read_texts,
)
from localllm.placement.arguments import GpuLayers, RequireGpu, Threads
from localllm.registry import Registry
from localllm.ui import Count, Fields, Heading, Percent, Seconds, Sink, Table, View
from localllm.ui.view import Note


def imatrix_command(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_model,
            help="A model; with --merge the matrices to add up, with --show a model or a matrix.",
        ),
    ],
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", metavar="FILE", help="A text to run; default the built-in one."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write here instead of the registry.")
    ] = None,
    chunks: Annotated[
        int | None, typer.Option("--chunks", min=1, help="At most so many chunks; default all.")
    ] = None,
    chunk_size: Annotated[
        int, typer.Option("--chunk-size", min=16, help="Tokens in a chunk, each on its own.")
    ] = 512,
    from_chunk: Annotated[
        int, typer.Option("--from-chunk", min=0, help="Pass over so many chunks of the text.")
    ] = 0,
    parse_special: Annotated[
        bool,
        typer.Option(
            "--parse-special",
            help="Read control tokens that the text spells out, such as <|im_end|>, as tokens.",
        ),
    ] = False,
    output: Annotated[
        bool,
        typer.Option(
            "--output", help="Measure the output layer too, or the embedding it is tied to."
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume", help="Go on from an interrupted run, reuse a whole one."
        ),
    ] = True,
    merging: Annotated[
        bool, typer.Option("--merge", help="Add up matrices of one model (needs --out).")
    ] = False,
    showing: Annotated[
        bool, typer.Option("--show", help="Statistics of a matrix, or of the one kept for a model.")
    ] = False,
    n_gpu_layers: GpuLayers = None,
    threads: Threads = None,
    require_gpu: RequireGpu = False,
    *,
    sink: Sink,
) -> None:
    """Measure which weights matter most, for better quantization."""
    registry = Registry.open()
    if merging and showing:
        raise UsageProblem("--merge and --show are two things", "localllm imatrix --help")
    if merging:
        if out is None:
            raise UsageProblem("--merge needs a place for the result", "--out merged.gguf")
        total = merge([Path(name) for name in what], out, chunk_size)
        _warn(total.quiet, sink)
        sink.show(total, _merged)
        return
    if len(what) > 1:
        raise UsageProblem(f"{what[1]!r}: one model at a time", "a text goes after --text")
    if showing:
        shown = show(what[0], registry)
        _warn(shown.quiet, sink)
        sink.show(shown, _shown)
        return
    options = ImatrixOptions(
        chunk_size=chunk_size,
        n_chunks=chunks,
        first_chunk=from_chunk,
        output=output,
        parse_special=parse_special,
        n_threads=threads or 0,
        n_gpu_layers=n_gpu_layers,
        require_gpu=require_gpu,
    )
    made = make_imatrix(
        find_gguf(what[0], registry), registry, sink.progress, sink.note,
        read_texts(text) if text else None, options, out=out, resume=resume,
    )  # fmt: skip
    _warn(made.quiet, sink)
    sink.show(made, _made)


def _warn(quiet: tuple[QuietExperts, ...], sink: Sink) -> None:
    """One warning for all: which experts of which tensors nothing is known of."""
    if not quiet:
        return
    first = quiet[0]
    shown = ", ".join(map(str, first.experts[:8])) + (" ..." if first.experts[8:] else "")
    more = f", and experts of {len(quiet) - 1} more tensors" if quiet[1:] else ""
    sink.warn(
        f"no token reached {len(first.experts)} of {first.n_experts} experts of {first.tensor} "
        f"({shown}){more}: they will be quantized without knowing their importance. Run more or "
        "other text and add it up with --merge"
    )


def _made(made: MadeImatrix) -> View:
    facts = Fields(
        [
            ("model", made.model),
            ("text", ", ".join(made.datasets)),
            ("tokens", f"{Count(made.n_tokens)} in {made.n_chunks} chunks of {made.chunk_size}"),
            ("tensors", made.n_tensors),
            ("took", None if made.reused else Seconds(made.elapsed_s)),
            ("path", str(made.path)),
        ]
    )
    return [facts, Note("already made")] if made.reused else facts


def _merged(total: MergedImatrix) -> View:
    return Fields(
        [
            ("texts", ", ".join(total.datasets)),
            ("chunks", total.n_chunks),
            ("tensors", total.n_tensors),
            ("path", str(total.path)),
        ]
    )


def _shown(shown: ShownImatrix) -> View:
    facts = Fields(
        [
            ("path", str(shown.path)),
            ("model", shown.model),
            ("text", ", ".join(shown.datasets) or None),
            ("tokens", None if shown.n_tokens is None else Count(shown.n_tokens)),
            ("chunks", f"{shown.n_chunks} of {shown.chunk_size or 'unknown'} tokens"),
        ]
    )
    columns = ("tensor", "Σ(act²)", "min", "max", "mean", "std", "active", "inputs", "entropy",
               "of most", "ZD", "cosine", "experts unused")  # fmt: skip
    rows = [
        (
            t.tensor, t.total, t.min, t.max, t.mean, t.std, Percent(t.active), t.n_inputs,
            t.entropy_bits, Percent(t.entropy_share), Percent(t.zd), t.cosine,
            f"{t.n_quiet} of {t.n_experts}" if t.n_experts > 1 else None,
        )
        for t in shown.tensors
    ]  # fmt: skip
    layers = [(row.layer, row.total, Percent(row.zd), row.cosine) for row in shown.layers]
    return [
        facts,
        Heading("Tensors"),
        Table(columns, rows),
        Heading("Layers, means weighted by inputs"),
        Table(("layer", "Σ(act²)", "ZD", "cosine"), layers),
    ]
