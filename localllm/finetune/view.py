"""A run on the terminal: what a dry run found, and what came out."""

from __future__ import annotations

from localllm.finetune.data.view import report_view
from localllm.finetune.outcome.result import Tuned
from localllm.finetune.shown import STOPPED, loss_plot, short
from localllm.finetune.trial import DryRun
from localllm.ui import (
    Bytes,
    Count,
    Fields,
    Heading,
    Note,
    Percent,
    Rate,
    Seconds,
    Table,
    View,
)
from localllm.ui.view import AnyCell, Part, Tone, Toned


def dry_view(run: DryRun) -> View:
    """The data's report, then what the run would take."""
    layout = run.layout
    rows: list[tuple[str, AnyCell]] = [
        ("result", run.name),
        ("base", run.base),
        ("examples", f"{Count(run.n_train)} to learn from, {Count(run.n_held_out)} held out"),
        ("numbers that learn", Count(run.n_params)),
        ("steps", f"{Count(run.n_steps)} of about {Count(round(run.tokens_per_step))} tokens"),
        ("computed in", f"{run.precision}, on {layout.device}{_tried(run)}"),
        ("base weights", layout.frozen + (", layers computed twice" * layout.checkpointing)
         + f", parted among {layout.shards} processes" * layout.is_sharded),
        ("speed, by a trial", Rate(run.tokens_per_s)),
        ("time", Seconds(run.total_s)),
        ("of it training", Seconds(run.training_s)),
        ("memory" if layout.is_cpu else "the GPU's memory", Bytes(run.peak_bytes)),
        ("reckoned before", Bytes(run.planned.total_bytes)),
    ]  # fmt: skip
    return [*report_view(run.data), Heading("The run"), Fields(rows)]


def _tried(run: DryRun) -> str:
    if run.precision_gflops is None:
        return ""
    speeds = ", ".join(f"{kind} {speed:.0f}" for kind, speed in run.precision_gflops.items())
    return f" (tried: {speeds} GFLOP/s)"


def tuned_view(done: Tuned) -> View:
    """What came out: facts, before and after, curves, answers."""
    parts: list[Part] = [Fields(_facts(done))]
    if done.judged is not None:
        parts += [Heading(f"{done.n_held_out} held-out examples, by llama.cpp"), _judged(done)]
    if (plot := loss_plot(done.losses, done.held_out)) is not None:
        parts.append(plot)
    if done.samples:
        parts += [Heading("Answers, by llama.cpp"), _answers(done)]
    if done.reused:
        parts.append(Note("already made; --restart makes it again"))
    else:
        parts.append(Note(f"try it: localllm chat {done.name}"))
    return parts


def _facts(done: Tuned) -> list[tuple[str, AnyCell]]:
    learned = done.learned
    kept = f", kept: step {learned.kept_step}" * (learned.kept_step != learned.steps)
    why = STOPPED.get(learned.stopped, "")
    return [
        ("result", f"{done.name} ({done.kind}, {Bytes(done.file_bytes)})"),
        ("base", done.base),
        ("learned by", f"{done.method}, {done.objective}"),
        ("examples", Count(done.n_examples)),
        ("steps", f"{learned.steps} of {learned.planned_steps} ({why}{kept})"),
        ("took", Seconds(learned.seconds)),
        ("speed", Rate(learned.tokens_per_s)),
        ("computed on", learned.device),
        ("memory", Bytes(learned.peak_bytes)),
        ("merged", _merged(done)),
        ("path", str(done.model.path)),
    ]


def _merged(done: Tuned) -> str | None:
    found = done.merged
    if found is None:
        return None
    size = Bytes(found["file_bytes"])
    kept = "" if found["kept"] is None else f", {Percent(found['kept'])} of the gain kept"
    return f"{found['name']} ({found['type']}, {size}{kept})"


def _judged(done: Tuned) -> Table:
    assert done.judged is not None
    before, after = done.judged.before, done.judged.after
    tone: Tone = "good" if done.judged.is_better else "bad"
    chosen, now = done.judged.preferred_before, done.judged.preferred_after
    is_pairs = chosen is not None and now is not None
    loss: AnyCell = after.loss if is_pairs else Toned(after.loss, tone)
    rows: list[list[AnyCell]] = [
        ["loss (nats a token)", before.loss, loss],
        ["perplexity", before.perplexity, after.perplexity],
    ]
    if chosen is not None and now is not None:
        share = Toned(Percent(now), tone)
        rows.append(["prefers the chosen answer", Percent(chosen), share])
    return Table(["", "before", "after"], rows)


def _answers(done: Tuned) -> Table:
    rows: list[list[AnyCell]] = [
        [short(one.prompt, tail=True), short(one.before), Toned(short(one.after), "good")]
        for one in done.samples
    ]
    return Table(["prompt", "before", "after"], rows)
