"""finetune, whole: from what was asked to a registered result, or to a dry run's report."""

from __future__ import annotations

import io
import shlex
import time
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from localllm import __version__
from localllm.errors import Interrupted, LocalLLMError, UsageProblem
from localllm.finetune.plan import Layout, MemoryNeed
from localllm.finetune.recipe import Recipe, to_toml, words_of
from localllm.finetune.request import (
    Asked,
    Learning,
    Subject,
    find_beginning,
    find_subject,
    read_data,
    result_name,
    settled,
    shaped_as,
    threads_for,
)
from localllm.finetune.where import check_device, laid_out
from localllm.library.derive import existing, parent_of
from localllm.library.growing import digest_of
from localllm.registry import Lineage, Registry
from localllm.ui import Sink
from localllm.ui.outfile import check_place, replace_file

if TYPE_CHECKING:
    from localllm.finetune.outcome.result import Tuned
    from localllm.finetune.training.group import Group


@dataclass(frozen=True)
class Ready:
    """All that is known before anything is loaded."""

    asked: Asked
    recipe: Recipe
    subject: Subject
    learning: Learning
    layout: Layout
    need: MemoryNeed
    name: str
    lineage: Lineage
    threads: int
    adapter: Path | None  # to go on from
    seconds: float  # that finding it all out took

    def group(self) -> Group:
        """The processes that train, met. Imports torch."""
        from localllm.finetune.training.group import join

        return replace(join(), shards=self.layout.is_sharded)

    @property
    def template(self) -> str | None:
        """The chat template that was trained with; None for texts as they stand."""
        prepared = self.learning.prepared
        return None if prepared.report.format == "text" else prepared.template.source


def finetune(asked: Asked, registry: Registry, sink: Sink) -> None:
    """Do what was asked and show it. Raises what its parts raise; nothing is registered then."""
    from localllm.finetune.curves import require_curves
    from localllm.finetune.merging import check_merge
    from localllm.finetune.training.prepare import asked_for_deepspeed, launched

    if asked.recipe.shard == "on" and launched()[1] == 1:
        raise UsageProblem(
            "--shard on parts the model among processes, and there is one",
            "torchrun --nproc-per-node 2 -m localllm finetune ...",
        )
    if asked.resume and asked.restart:
        raise UsageProblem("--resume goes on with a run, --restart throws it away: name one")
    for path in (asked.report, asked.save_recipe):
        if path is not None:
            check_place(path)
    check_merge(asked.recipe)
    require_curves(asked.recipe)
    if not (is_first := launched()[0] == 0):
        sink = Sink("finetune", progress="none", stdout=io.StringIO(), stderr=io.StringIO())
    if asked_for_deepspeed():
        sink.warn("DeepSpeed is not used; --shard parts the model among the processes (FSDP)")
    ready = make_ready(asked, registry, sink)
    if asked.save_recipe is not None and is_first:
        replace_file(asked.save_recipe, to_toml(ready.recipe))
    for warning in ready.learning.prepared.report.warnings:
        sink.warn(warning)
    if asked.dry_run:
        _show_dry_run(ready, registry, sink)
        return
    if not asked.restart and (known := existing(registry, ready.name, ready.lineage)) is not None:
        from localllm.finetune.outcome.result import made_before

        if is_first:
            _show(made_before(known, ready.subject.model, registry), ready, registry, sink)
        return
    try:
        done = _run(ready, registry, sink)
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted", "run the same command with --resume to go on from the last checkpoint"
        ) from None
    if done is not None:
        _show(done, ready, registry, sink)


def make_ready(asked: Asked, registry: Registry, sink: Sink) -> Ready:
    """Find the base, read the data, lay the run out. Raises DoesNotFit where it cannot run."""
    from localllm.finetune.merging import check_merge_type
    from localllm.finetune.training.prepare import prepare_torch, require_torch

    began = time.perf_counter()
    subject = find_subject(asked.recipe.base, registry, sink.progress)
    require_torch()
    check_device(asked.recipe, threads_for(asked.recipe))
    check_merge_type(asked.recipe, subject)
    adapter = None
    if asked.recipe.adapter is not None:
        adapter = find_beginning(asked.recipe, subject, registry)
        asked = replace(asked, recipe=shaped_as(asked.recipe, adapter, sink.note))
    learning = read_data(asked.recipe, subject, registry, sink.progress, sink.note)
    recipe = settled(asked, learning, subject)
    threads = threads_for(recipe)
    prepare_torch(threads)
    layout, need = laid_out(subject, recipe, learning, sink.note)
    name = result_name(recipe, subject)
    return Ready(
        asked=asked,
        recipe=recipe,
        subject=subject,
        learning=learning,
        layout=layout,
        need=need,
        name=name,
        lineage=_lineage(recipe, subject, learning, name, adapter, sink),
        threads=threads,
        adapter=adapter,
        seconds=time.perf_counter() - began,
    )


def _lineage(
    recipe: Recipe, subject: Subject, learning: Learning, name: str, adapter: Path | None,
    sink: Sink,
) -> Lineage:  # fmt: skip
    """Parent, data, resolved recipe, versions: what the result is made of."""
    report = learning.prepared.report
    inputs = {"data": report.sha256}
    inputs |= {f"data:{file.name}": file.sha256 for file in report.files[:50]}
    if adapter is not None:
        inputs["adapter"] = digest_of(adapter, lambda n: None)
    words = words_of(replace(recipe, name=name))
    versions = {"localllm": __version__}
    versions |= {one: version(one) for one in ("torch", "transformers", "llama-cpp-python")}
    parent = parent_of(subject.model, sink.progress)
    return Lineage("finetune", (parent,), shlex.join(words), recipe.lineage(), inputs, versions)


def _run(ready: Ready, registry: Registry, sink: Sink) -> Tuned | None:
    """Train, judge, register. None in the processes that only help to train."""
    from localllm.finetune.building import add_reference, build
    from localllm.finetune.curves import open_curves
    from localllm.finetune.outcome.finish import finish
    from localllm.finetune.outcome.writing import help_write
    from localllm.finetune.sampling import Sampler, helped
    from localllm.finetune.training.checkpoint import load
    from localllm.finetune.training.trainer import Trainer
    from localllm.finetune.watching import watcher_for
    from localllm.finetune.workplace import workplace

    group, asked, recipe = ready.group(), ready.asked, ready.recipe
    held = workplace(ready.name, ready.lineage, registry, sink.note, group)
    with group.together(), held as place:
        place.check(resume=asked.resume, restart=asked.restart)
        group.wait()
        begun = load(place.checkpoint) if asked.resume and group.is_first else None
        known = group.told(begun and begun[0])
        if asked.resume and known is None:
            sink.note(f"no interrupted run of {ready.name} on this base is kept: it begins anew")
        built = build(ready.subject, ready.learning, recipe, ready.layout, ready.adapter,
                      group, known.precision if known else None)  # fmt: skip
        add_reference(built, sink.progress, known.reference if known else None, group)
        own = Sampler(ready, built, place, sink) if group.is_first else None
        sampler = (own or partial(helped, built)) if recipe.sample_every else None
        curves = partial(open_curves, recipe, ready.name, place.run_id,
                         known.step if known else 0)  # fmt: skip
        with watcher_for(ready.name, sink, sampler, group, curves) as watcher:
            trained = Trainer(built.task, recipe, place, watcher, group).run(resume=asked.resume)
        if not group.is_first:
            help_write(built)
            return None
        samples = own.taken if own is not None else ()
        return finish(ready, built, trained, samples, registry, sink, place)


def _show(done: Tuned, ready: Ready, registry: Registry, sink: Sink) -> None:
    """Merge where it was asked for, write the page, show the result. The adapter is registered
    whatever becomes of the merge."""
    from localllm.finetune.view import tuned_view

    failed: LocalLLMError | None = None
    if ready.recipe.merge is not None:
        from localllm.finetune.merging import is_merged, lost, merge_result

        try:
            if not is_merged(done, ready.recipe, registry):
                done = merge_result(done, ready, registry, sink)
            failed = lost(done)
        except LocalLLMError as error:  # nothing was made; an earlier merge is not the answer
            done, failed = replace(done, merged=None), error
    if ready.asked.report is not None:
        from localllm.finetune.report import write_report

        write_report(done, ready.asked.report)
    sink.show(done, tuned_view, ok=failed is None, error=failed)


def _show_dry_run(ready: Ready, registry: Registry, sink: Sink) -> None:
    from localllm.finetune.trial import try_run
    from localllm.finetune.view import dry_view

    with ready.group().together():
        found = try_run(ready, sink.progress, registry.home / "partial")
    sink.show(found, dry_view)
