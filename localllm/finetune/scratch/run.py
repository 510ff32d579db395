"""train, whole: from what was asked to a registered model, or to a dry run's report."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm import config
from localllm.errors import Interrupted, UsageProblem
from localllm.finetune.curves import require_curves
from localllm.finetune.scratch.recipe import TrainRecipe
from localllm.library.derive import checked_name, require_room
from localllm.registry import Model, Registry
from localllm.ui import Sink
from localllm.ui.outfile import check_place, replace_file

if TYPE_CHECKING:
    from localllm.finetune.scratch.corpus import Corpus
    from localllm.finetune.scratch.ready import Ready
    from localllm.finetune.scratch.result import Trained


@dataclass(frozen=True)
class Asked:
    """The command line. `restart` throws an interrupted run, or a model of the name, away."""

    recipe: TrainRecipe
    dry_run: bool = False
    resume: bool = False
    restart: bool = False
    report: Path | None = None
    save_recipe: Path | None = None


def train(asked: Asked, registry: Registry, sink: Sink) -> None:
    """Do what was asked and show it. Raises what its parts raise; nothing is registered then."""
    if asked.resume and asked.restart:
        raise UsageProblem("--resume goes on with a run, --restart throws it away: name one")
    for path in (asked.report, asked.save_recipe):
        if path is not None:
            check_place(path)
    require_curves(asked.recipe)
    from localllm.finetune.data import unpruned
    from localllm.finetune.scratch.place import waits_for

    name = _name(asked.recipe)
    # its data is read until the run itself is held, and by a dry run to the end
    whose = f"{'a trial of ' if asked.dry_run else ''}{name}"
    with unpruned(asked.recipe.data, whose, registry, lambda: sink.note(waits_for(name))):
        done = _train(asked, name, registry, sink)
    if done is not None:
        _show(done, asked, sink)


def _train(asked: Asked, name: str, registry: Registry, sink: Sink) -> Trained | None:
    """None where it was a dry run, which is shown."""
    corpus = read(asked.recipe, registry, sink)
    if asked.save_recipe is not None:
        from localllm.finetune.recipe import to_toml

        replace_file(asked.save_recipe, to_toml(asked.recipe))
    if asked.dry_run:
        _show_dry_run(asked, name, corpus, registry, sink)
        return None
    known = _taken(name, asked, corpus, registry)
    try:
        return known or _run(asked, name, corpus, registry, sink)
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted", "run the same command with --resume to go on from the last checkpoint"
        ) from None


def read(recipe: TrainRecipe, registry: Registry, sink: Sink) -> Corpus:
    """Find the data and decide what is kept back. Raises MissingExtra, and what reading raises."""
    from localllm.finetune.data import DataSpec, open_data, parse_columns
    from localllm.finetune.training.prepare import require_torch

    spec = DataSpec(
        sources=recipe.data,
        format=recipe.format,  # type: ignore[arg-type]
        columns=parse_columns(recipe.column),
        bad_rows=recipe.bad_rows,  # type: ignore[arg-type]
        duplicates=recipe.duplicates,  # type: ignore[arg-type]
        limit=recipe.limit,
    )
    dataset = open_data(spec, registry=registry, progress=sink.progress)
    require_torch()
    from localllm.finetune.scratch.corpus import look

    corpus = look(dataset, recipe, sink.progress)
    for problem in corpus.problems:
        sink.warn(f"{problem.n_rows} lines or rows left out: {problem.reason} ({problem.rows[0]})")
    return corpus


def _name(recipe: TrainRecipe) -> str:
    if recipe.name is None:
        raise UsageProblem("name the model that is to be", "localllm train NAME --data FILE")
    return checked_name(recipe.name)


def _taken(name: str, asked: Asked, corpus: Corpus, registry: Registry) -> Trained | None:
    """What was made already by the same recipe from the same data. Raises UsageProblem where the
    name is another model's: half an hour later would be late to hear it."""
    from localllm.finetune.scratch.result import made_before

    found = next((m for m in registry.models() if m.name.casefold() == name.casefold()), None)
    if found is None:
        return None
    same = is_same(found, asked.recipe.lineage(), corpus.sha256)
    if same and not asked.restart and all(file.path.exists() for file in found.files):
        return made_before(found, registry)
    if same:
        return None
    raise UsageProblem(
        f"there is a model {found.name} already, made otherwise",
        f"another name, or localllm rm {found.name}",
    )


def _threads(recipe: TrainRecipe) -> int:
    from localllm.engine.threads import default_threads

    return recipe.threads or config.load().threads or default_threads()


def _free_bytes() -> int:
    from localllm.placement import this_machine

    return this_machine().host_available_bytes


def _show_dry_run(asked: Asked, name: str, corpus: Corpus, registry: Registry, sink: Sink) -> None:
    from localllm.finetune.training.prepare import prepare_torch

    threads = _threads(asked.recipe)
    prepare_torch(threads)
    from localllm.finetune.scratch.place import Place
    from localllm.finetune.scratch.ready import make_ready
    from localllm.finetune.scratch.result import DryRun
    from localllm.finetune.scratch.view import dry_view

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Place.in_folder(Path(folder))
        ready = make_ready(
            corpus, asked.recipe, None, place, threads, _free_bytes(), sink.progress, sink.note,
            stack,
        )  # fmt: skip
        done = DryRun(
            name, ready.dialect.chosen.name, ready.told, ready.planned, asked.recipe.as_dict()
        )
    sink.show(done, dry_view)


def _run(asked: Asked, name: str, corpus: Corpus, registry: Registry, sink: Sink) -> Trained:
    """Decide, train, judge, register."""
    from localllm.finetune.training.prepare import prepare_torch

    threads = _threads(asked.recipe)
    prepare_torch(threads)
    from localllm.finetune.scratch import plan as plans
    from localllm.finetune.scratch.finish import finish
    from localllm.finetune.scratch.place import place_of
    from localllm.finetune.scratch.ready import make_ready

    with place_of(name, registry, sink.note) as place, ExitStack() as stack:
        place.check(resume=asked.resume, restart=asked.restart)
        known = plans.load(place.plan) if asked.resume else None
        if known is not None:
            plans.check_same(known, asked.recipe, corpus.sha256)
        elif asked.resume:
            sink.note(f"no interrupted run of {name} is kept: it begins anew")
        ready = make_ready(
            corpus, asked.recipe, known, place, threads, _free_bytes(), sink.progress, sink.note,
            stack,
        )  # fmt: skip
        # weights, moments, the best weights so far, and the file
        need = 4 * (3 + 1) * ready.plan.shape.n_params + (64 << 20)
        require_room(place.plan.parent, need, "the run's checkpoints need")
        plans.save(ready.plan, place.plan)
        _say(ready, sink)
        return finish(ready, asked, name, place, registry, sink, threads)


def _say(ready: Ready, sink: Sink) -> None:
    from localllm.ui import Count, Seconds

    plan = ready.planned
    sink.note(
        f"{plan.n_params / 1e6:.1f} million parameters ({plan.layers} layers of {plan.width}, "
        f"{Count(plan.n_vocab)} tokens), {Count(plan.tokens)} tokens to see ("
        f"{plan.epochs:.1f} times the text), about {Seconds(plan.training_s)} at "
        f"{plan.tokens_per_s:.0f} tokens/s"
    )


def is_same(model: Model, asked: Mapping[str, Any], data: str) -> bool:
    """Whether `model` was made by the same options from the same text."""
    made = model.lineage
    return (
        made is not None
        and made.operation == "train"
        and made.parameters.get("asked") == asked
        and made.inputs.get("data") == data
    )


def _show(done: Trained, asked: Asked, sink: Sink) -> None:
    from localllm.finetune.scratch.view import trained_view

    if asked.report is not None:
        from localllm.finetune.scratch.report import write_report

        write_report(done, asked.report)
    if not done.reused and not done.judged.is_worth_it:
        sink.warn(
            "counting tokens predicts the held-out text better than this model: "
            "more time (--budget), more text, or a smaller model (--layers)"
        )
    sink.show(done, trained_view)
