"""What came out of training from scratch, as people read it."""

from __future__ import annotations

from localllm.finetune.scratch.result import DryRun, Planned, Told, Trained
from localllm.finetune.shown import STOPPED, loss_plot, short
from localllm.ui import (
    Bytes,
    Count,
    Fields,
    Heading,
    Note,
    Rate,
    Seconds,
    Table,
    View,
)
from localllm.ui.view import AnyCell, Part, Tone, Toned

_MOST = 240  # characters of a sample


def dry_view(run: DryRun) -> View:
    """What the run would be; times are an estimate by a trial."""
    plan = run.plan
    rows: list[tuple[str, AnyCell]] = [
        ("result", run.name),
        *data_facts(run.data),
        *plan_facts(plan),
        ("chat template", run.template),
        ("speed, by a trial", Rate(plan.tokens_per_s)),
        ("time to train, about", Seconds(plan.training_s)),
        ("memory", Bytes(plan.peak_bytes)),
    ]
    return [Fields(rows)]


def data_facts(data: Told) -> list[tuple[str, AnyCell]]:
    left = f"; {Bytes(data.left_bytes)} not used: the time ends before" * bool(data.left_bytes)
    bad = f"; {Count(data.n_bad)} lines or rows left out" * bool(data.n_bad)
    twice = f"; {Count(data.n_dropped)} empty or repeated left out" * bool(data.n_dropped)
    return [
        ("text", f"{Bytes(data.train_bytes)}, {Count(data.train_tokens)} tokens of "
                 f"{data.bytes_per_token:.2f} bytes{left}{bad}{twice}"),
        ("kept back", f"{Count(data.n_held)} of {Count(data.n_held + data.n_units)} "
                      f"{data.units}, {Bytes(data.held_bytes)}"),
    ]  # fmt: skip


def plan_facts(plan: Planned) -> list[tuple[str, AnyCell]]:
    heads = f"{plan.heads} heads" + f" ({plan.kv_heads} of keys)" * (plan.kv_heads != plan.heads)
    rows = "" if plan.has_k_rows else "; quantizes to Q8_0, Q5_0, Q4_0, not to K types"
    return [
        ("parameters", f"{plan.n_params / 1e6:.1f} million: {plan.layers} layers of {plan.width}, "
                       f"{heads}, {plan.ff} feed-forward, {Count(plan.n_vocab)} tokens{rows}"),
        ("context", Count(plan.context)),
        ("steps", f"{Count(plan.steps)} of {Count(plan.tokens_per_step)} tokens in {plan.precision}"
                  f", {plan.optimizer} at {plan.lr:.1e}"
                  + f", dropout {plan.dropout:g}" * bool(plan.dropout)),
        ("tokens seen", f"{Count(plan.tokens)}: the text {plan.epochs:.1f} times, "
                        f"{plan.tokens_per_param:.1f} a parameter (20 are thought best)"),
    ]  # fmt: skip


def trained_view(done: Trained) -> View:
    """What came out: facts, what it is worth, curves, samples."""
    learned = done.learned
    kept = f", kept: step {learned.kept_step}" * (learned.kept_step != learned.steps)
    why = STOPPED.get(learned.stopped, "")
    facts: list[tuple[str, AnyCell]] = [
        ("result", f"{done.name} ({done.type}, {Bytes(done.file_bytes)})"),
        *data_facts(done.data),
        *plan_facts(done.plan),
        ("trained", f"{learned.steps} of {learned.planned_steps} steps ({why}{kept})"),
        ("took", Seconds(learned.seconds)),
        ("speed", Rate(learned.tokens_per_s)),
        ("memory", Bytes(learned.peak_bytes)),
        ("chat template", done.template),
        ("path", str(done.model.path)),
    ]
    parts: list[Part] = [
        Fields(facts),
        Heading(f"{Count(done.judged.n_tokens)} held-out tokens, by llama.cpp"),
        judged_table(done),
    ]
    if (plot := loss_plot(done.losses, done.held_out)) is not None:
        parts.append(plot)
    if done.samples:
        parts += [Heading("What it writes, by llama.cpp"), _samples(done)]
    if done.reused:
        parts.append(Note("already made; --restart makes it again"))
    elif done.template == "none":
        parts.append(
            Note(f"try it: localllm chat {done.name} --raw; without a template it goes on with "
                 "a text and answers nothing")
        )  # fmt: skip
    else:
        parts.append(Note(f"try it: localllm chat {done.name}"))
    return parts


def judged_table(done: Trained) -> Table:
    """Bits a byte of this model and of what is known to everybody; fewer are better."""
    judged = done.judged
    tone: Tone = "good" if judged.is_worth_it else "bad"
    own = Toned(_bits(judged.bits_per_byte), tone)
    rows: list[list[AnyCell]] = [[f"{done.name} (perplexity {judged.perplexity:.1f})", own]]
    for one in sorted(judged.baselines, key=lambda one: one.bits_per_byte):
        rows.append([one.name, _bits(one.bits_per_byte)])
    rows.append(["as it stands", _bits(8.0)])
    return Table(["the same text by", "bits a byte"], rows)


def _bits(value: float) -> str:
    return f"{value:.3f}"


def _samples(done: Trained) -> Table:
    rows: list[list[AnyCell]] = [
        [short(one.prompt, tail=True, most=_MOST), Toned(short(one.answer, most=_MOST), "good")]
        for one in done.samples
    ]
    return Table(["after", "it writes"], rows)
