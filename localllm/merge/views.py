"""How results of merging are shown."""

from __future__ import annotations

from localllm.library.merging.models import MergedModels
from localllm.library.merging.result import Losses, MergedAdapters
from localllm.library.merging.survival import Survival
from localllm.ui import Bytes, Fields, Heading, Percent, Seconds, Table, View
from localllm.ui.view import Note, Part


def adapters_view(made: MergedAdapters) -> View:
    """Facts, what was tried, the losses, and the tensors that changed."""
    adapters = ", ".join(
        name if scale == 1.0 else f"{name} x {scale:g}" for name, scale in made.adapters
    )
    view: list[Part] = [
        Fields(
            [
                ("model", made.name if made.model else f"{made.name} (not written)"),
                ("base", made.base),
                ("adapters", adapters),
                ("type", made.type),
                ("file", f"{Bytes(made.file_bytes)} ({made.file_bytes} bytes)"),
                ("tuning kept", _kept(made.survival, made.sampled)),
                ("change", Percent(made.survival.relative_change)),
                ("rounding", f"{made.survival.noise:.3g} x the change"),
                ("output", "its own now: the base uses its embedding" if made.untied else None),
                ("took", None if made.reused or not made.model else Seconds(made.elapsed_s)),
                ("path", None if made.model is None else str(made.model.path)),
            ]
        )
    ]
    if made.reused:
        losses: list[Part] = []
        if made.loss is not None:
            losses = [Heading("Held-out loss"), _losses(made.loss)]
        return [*view, *losses, Note("already made")]
    if len(made.tried) > 1:
        rows = [
            (t.type, Percent(t.survival.share or 0.0), Bytes(t.file_bytes),
             "yes" if t.keeps else "the base's own" if t.own_type else "no")
            for t in made.tried
        ]  # fmt: skip
        view += [Heading("Types tried"), Table(("type", "kept", "size", "good"), rows)]
    if made.loss is not None:
        view += [Heading("Held-out loss"), _losses(made.loss)]
    if made.model is None:
        view += [Heading("Plan"), _plan(made)]
        return view
    return [*view, Heading("Changed"), _changed(made)]


def models_view(made: MergedModels) -> View:
    """Facts, where the layers come from, and the types."""
    kept = None
    if made.survival is not None:
        kept = _kept(made.survival, False)
    view: list[Part] = [
        Fields(
            [
                ("model", made.name if made.model else f"{made.name} (not written)"),
                ("method", made.method),
                ("of", ", ".join(made.models)),
                ("base", made.base),
                ("type", made.type),
                ("layers", made.n_layers),
                ("file" if made.format == "gguf" else "files",
                 f"{Bytes(made.file_bytes)} ({made.file_bytes} bytes)"),
                ("difference kept", kept),
                ("took", None if made.reused or not made.model else Seconds(made.elapsed_s)),
                ("path", None if made.model is None else str(made.model.path)),
            ]
        )
    ]  # fmt: skip
    if made.reused:
        return [*view, Note("already made")]
    rows = [(t.type, t.tensors, Bytes(t.size_bytes)) for t in made.types]
    view += [Heading("Tensors"), Table(("type", "tensors", "size"), rows)]
    if made.method == "passthrough":
        stack = [(i, name, layer) for i, (name, layer) in enumerate(made.layers)]
        view += [Heading("Layers"), Table(("layer", "model", "its layer"), stack)]
    return view


def _kept(survival: Survival, sampled: bool) -> str:
    share = survival.share or 0.0
    spread = f" ± {survival.error * 100:.1g}" if survival.error >= 0.001 else ""
    return f"{share * 100:.4g}{spread} %{', from a sample' if sampled else ''}"


def _losses(loss: Losses) -> Fields:
    error = "" if loss.gain_error is None else f" ± {loss.gain_error:.2g}"
    return Fields(
        [
            ("text", f"{loss.text}, {loss.n_tokens} tokens"),
            ("base", f"{loss.base:.4f}"),
            ("with adapters", loss.why or f"{loss.with_adapters:.4f} (gain "
             f"{loss.base - (loss.with_adapters or 0.0):+.4f}{error})"),
            ("merged", f"{loss.merged:.4f}" if loss.merged is not None else None),
            ("gain kept", None if loss.kept is None else Percent(loss.kept)),
        ]
    )  # fmt: skip


def _plan(made: MergedAdapters) -> Table:
    rows = [
        (t.name, "x".join(map(str, t.shape)), t.from_type, t.to_type, Bytes(t.after_bytes))
        for t in made.tensors
    ]
    return Table(("tensor", "shape", "from", "to", "size"), rows)


def _changed(made: MergedAdapters) -> Table:
    """The changed tensors, those that kept least first."""
    found = [(t, t.survival) for t in made.tensors if t.survival is not None]
    found.sort(key=lambda pair: pair[1].share or 0.0)
    rows = [
        (t.name, t.from_type, t.to_type, Percent(s.share or 0.0), Percent(s.relative_change),
         f"{s.noise:.3g}")
        for t, s in found
    ]  # fmt: skip
    return Table(("tensor", "from", "to", "kept", "change", "rounding/change"), rows)
