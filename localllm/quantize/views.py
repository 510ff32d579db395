"""How results of quantizing are shown."""

from __future__ import annotations

from collections.abc import Sequence

from localllm.quantize.result import Quantized
from localllm.ui import Bytes, Fields, Heading, Percent, Seconds, Table, View
from localllm.ui.view import Note, Part


def several(results: Sequence[Quantized], dry_run: bool) -> View:
    """One result in full; several as a table."""
    if len(results) == 1:
        return one(results[0], dry_run)
    rows = [
        (r.name, r.type, Bytes(r.file_bytes), r.bits_per_weight, len(r.fallbacks),
         None if r.reused or dry_run else Seconds(r.elapsed_s))
        for r in results
    ]  # fmt: skip
    return Table(("model", "type", "size", "bits/weight", "fallbacks", "took"), rows)


def one(q: Quantized, dry_run: bool) -> View:
    """Facts, then the tensors: each in a dry run, summed by type otherwise."""
    share = Percent(q.after_bytes / q.before_bytes) if q.before_bytes else None
    facts = Fields(
        [
            ("model", q.name if q.model else f"{q.name} (not written)"),
            ("from", q.source),
            ("type", q.type),
            ("file", f"{Bytes(q.file_bytes)} ({q.file_bytes} bytes)"),
            ("tensors", f"{Bytes(q.after_bytes)}, {share} of {Bytes(q.before_bytes)}"),
            ("bits per weight", q.bits_per_weight),
            ("took", None if q.reused or dry_run else Seconds(q.elapsed_s)),
            ("path", None if q.model is None else str(q.model.path)),
        ]
    )
    if q.reused:
        return [facts, Note("already made")]
    view: list[Part] = [facts]
    if dry_run:
        view += [Heading("Plan"), _plan(q)]
    rows = [
        (c.from_type, c.to_type, c.tensors, Bytes(c.before_bytes), Bytes(c.after_bytes))
        for c in q.changes
    ]
    return [*view, Heading("Tensors"), Table(("from", "to", "tensors", "before", "after"), rows)]


def _plan(q: Quantized) -> Table:
    rows = [
        (t.name, "x".join(map(str, t.shape)), t.from_type, t.to_type, Bytes(t.after_bytes),
         t.reason or "")
        for t in q.tensors
    ]  # fmt: skip
    return Table(("tensor", "shape", "from", "to", "size", "why another type"), rows)
