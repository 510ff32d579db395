"""How the best model for a size is made and shown on the command line."""

from __future__ import annotations

from pathlib import Path

from localllm.errors import Interrupted
from localllm.quantize.measured.measurer import MeasureOptions
from localllm.quantize.measured.view import set_view
from localllm.quantize.requests import Given
from localllm.quantize.search.found import GroupDamage
from localllm.quantize.size.fit import FitAssumed
from localllm.quantize.size.judge import Verdict
from localllm.quantize.size.request import SizeAsked
from localllm.quantize.size.search import BestForSize, best_for_size
from localllm.registry import Registry
from localllm.ui import Bytes, Fields, Heading, Percent, Seconds, Sink, Table, View
from localllm.ui.view import AnyCell, Note, Part


def show_best(
    model: str,
    given: Given,
    asked: SizeAsked,
    registry: Registry,
    sink: Sink,
    *,
    dry_run: bool,
    save_plan: Path | None,
    again: bool,
    measuring: MeasureOptions | None,
) -> None:
    """Search, make, judge, measure and show."""
    try:
        best, error = best_for_size(
            model, given, asked, registry, sink,
            dry_run=dry_run, save_plan=save_plan, again=again, measuring=measuring,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted("interrupted; what was finished is kept", "run it again") from None
    sink.show(best, best_view, ok=error is None, error=error)


def best_view(best: BestForSize) -> View:
    """Facts, the verdict, and every group of tensors with why it has its types."""
    made, search = best.result, best.search
    limit = f"{Bytes(best.limit.taken(made))} of {Bytes(best.limit.n_bytes)} ({best.limit.of})"
    rows: list[tuple[str, AnyCell]] = [
        ("model", made.name if made.model else f"{made.name} (not written)"),
        ("from", made.source),
        ("file", f"{Bytes(made.file_bytes)} ({made.file_bytes} bytes)"),
        ("of the limit", f"{limit}, {best.used:.2%}"),
        ("bits per weight", made.bits_per_weight),
        ("types", "of the search" if best.taken == "search" else f"{best.preset}'s own"),
        ("importance matrix", best.imatrix or "none"),
        ("searched", _how(best)),
        ("took", Seconds(best.took_s)),
        ("path", None if made.model is None else str(made.model.path)),
    ]
    view: list[Part] = [Fields(rows)]
    if best.limit.fit is not None:
        view += [Heading("What fits"), _fit(best.limit.fit)]
    if best.verdict is not None:
        view += [Heading("On text that decided nothing"), *_verdict(best.verdict)]
    elif search is not None and best.searched_with is None:
        view.append(Note("not judged: the model was not run"))
    elif search is not None and best.preset is None:
        view.append(Note("no preset is as small: there is nothing to compare with"))
    if search is not None:
        view += [Heading("Groups of tensors"), _groups(search.groups)]
    if best.measured is not None:
        view += set_view(best.measured)
    return view


def _how(best: BestForSize) -> str:
    if best.search is None:
        return "before, by the same command"
    if best.searched_with is None:
        return "by the types' errors alone"
    took = Seconds(best.search.took_s)
    return f"{best.search.runs} runs in {took} on {best.searched_with}"


def _fit(fit: FitAssumed) -> Fields:
    where = "GPU memory, every layer there" if fit.where == "GPU" else "memory"
    return Fields(
        [
            ("where", where),
            ("free", Bytes(fit.available_bytes)),
            ("weights", Bytes(fit.weights_bytes)),
            (f"cache of {fit.n_ctx} tokens ({fit.cache_type})", Bytes(fit.kv_bytes)),
            ("compute buffers", Bytes(fit.compute_bytes)),
            ("kept free", Bytes(fit.margin_bytes)),
        ]
    )


def _verdict(verdict: Verdict) -> list[Part]:
    rows = [
        (side.name, Bytes(side.file_bytes), side.mean_kld.value, _pm(side.mean_kld.clustered_error))
        for side in (verdict.ours, verdict.preset)
    ]
    change = verdict.change
    interval = ""
    if change.low is not None and change.high is not None:
        interval = f" (95 %: {change.low:+.1%} to {change.high:+.1%})"
    note = (
        f"{change.relative:+.1%} mean KLD{interval}, paired over {verdict.n_contexts} contexts, "
        f"{verdict.n_tokens} tokens of {verdict.text}"
    )
    return [Table(("model", "size", "mean KLD", "±"), rows), Note(note)]


def _pm(error: float | None) -> AnyCell:
    return None if error is None else float(f"{error:.2g}")


def _groups(groups: tuple[GroupDamage, ...]) -> Table:
    total = sum(g.predicted_kld for g in groups) or 1.0
    rows = [
        (g.group, g.n_tensors, _types(g), Bytes(g.size_bytes), g.error / g.n_tensors,
         None if g.kld is None else f"{g.kld:.3g} ({g.probe})",
         Percent(g.predicted_kld / total))
        for g in groups
    ]  # fmt: skip
    return Table(
        ("group", "tensors", "types", "size", "error", "KLD alone", "of the damage"),
        rows,
    )


def _types(group: GroupDamage) -> str:
    order = sorted(group.types.items(), key=lambda item: (-item[1], item[0]))
    return " ".join(kind if len(order) == 1 else f"{n}x{kind}" for kind, n in order)
