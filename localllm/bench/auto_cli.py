"""bench --auto and --no-auto: the fastest settings for a model here, kept or forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from localllm.bench.tuning.auto import Choice, Search
from localllm.bench.tuning.duel import Duel
from localllm.bench.tuning.tune import Tuned, tune
from localllm.errors import Interrupted, UsageProblem
from localllm.library.bench.bench import sweep_of
from localllm.library.bench.case import BenchTest, Case, Setup
from localllm.library.bench.sweep import SweepOptions
from localllm.library.defaults import forget_defaults
from localllm.registry import Model, Registry
from localllm.ui import Heading, Note, Seconds, Sink, Table, View
from localllm.ui.view import Part

BUDGET_S = 300.0


def tune_models(
    models: Sequence[Model],
    budget_s: float | None,
    options: SweepOptions,
    registry: Registry,
    sink: Sink,
) -> None:
    """Search for each of `models`, `budget_s` each (None: five minutes); show what was found."""
    from localllm.placement.here import look

    done: list[Tuned] = []
    for model in models:
        sweep = sweep_of(model, [Case(Setup(), BenchTest(0, 1))], registry, options, sink.warn)
        try:
            done.append(
                tune(sweep, look().cpu, registry, sink.progress, budget_s=budget_s or BUDGET_S)
            )
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; {len(done)} of {len(models)} models are tuned",
                "a shorter search: --budget 60",
            ) from None
        if model.id is None and done[-1].search.better:
            sink.warn(f"{model.name} is not in the registry, so nothing is kept for it")
    sink.show(tuple(done), _view)


def forget_models(models: Sequence[Model], registry: Registry, sink: Sink) -> None:
    """Go back to the general defaults for `models` on this machine."""
    from localllm.library.bench.conditions.machine import this_machine_record

    here = this_machine_record().fingerprint
    for model in models:
        if model.id is None:
            raise UsageProblem(f"{model.name} is not in the registry: nothing is kept for it")
        forget_defaults(registry, model, here)
    names = tuple(model.name for model in models)
    sink.show(
        {"forgotten": names},
        lambda found: Note(f"{', '.join(found['forgotten'])}: the general defaults again"),
    )


def _view(done: tuple[Tuned, ...]) -> View:
    return [part for tuned in done for part in _tuned(tuned)]


def _tuned(tuned: Tuned) -> list[Part]:
    found = tuned.search
    columns = ("setting", "before", "kept", "tried", "gain pp", "gain tg", "time")
    rows = [_choice(choice) for choice in found.choices]
    said: list[Part] = [Heading(tuned.model), Table(columns, rows)]
    left = sum(len(choice.left_out) for choice in found.choices)
    if left:
        said.append(Note(f"{left} values are left out: a longer --budget tries them too"))
    said.append(Note(_verdict(found, tuned.kept), "good" if tuned.kept else "dim"))
    return said


def _choice(choice: Choice) -> tuple[str | Seconds | None, ...]:
    won = next((t for t in choice.tried if t.value == choice.kept), None)
    tried = [f"{t.value} {t.outcome}" if t.outcome == "failed" else
             f"{t.value} {_percent(t.speedup)}" for t in choice.tried]  # fmt: skip
    return (
        choice.name,
        choice.before,
        choice.kept,
        ", ".join(tried) or ("left out" if choice.left_out else "nothing else"),
        None if won is None or won.pp is None else _percent(won.pp),
        None if won is None or won.tg is None else _percent(won.tg),
        Seconds(choice.took_s),
    )


def _verdict(found: Search, kept: bool) -> str:
    if found.winner == found.default:
        return "nothing was faster than the general defaults: they stay"
    both = (
        f"against the defaults, measured anew: prompts {_bounded(found.pp)}, "
        f"generation {_bounded(found.tg)}"
    )
    if kept:
        return f"{both}; chat loads the model so from now on (bench --no-auto forgets it)"
    return f"{both}; not kept: " + (
        "not surely better" if not found.better else "the model is not in the registry"
    )


def _bounded(duel: Duel) -> str:
    if not duel.rounds:
        return "not measured"
    return f"{_percent(duel.speedup)} ({_percent(duel.low)} to {_percent(duel.high)})"


def _percent(speedup: float) -> str:
    if speedup == float("inf"):
        return "?"
    return f"{speedup - 1:+.1%}".replace("%", " %")
