"""The end of a run from scratch: trained, written, judged, registered; or nothing of it there."""

from __future__ import annotations

import shlex
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from localllm import __version__
from localllm.errors import DamagedFile, TrainingFailed
from localllm.finetune.course import course_of
from localllm.finetune.outcome.result import curves
from localllm.finetune.recipe import option_words
from localllm.finetune.scratch import outcome
from localllm.finetune.scratch.encode import counted
from localllm.finetune.scratch.learning import Learning
from localllm.finetune.scratch.model import write_model
from localllm.finetune.scratch.place import Place
from localllm.finetune.scratch.ready import Ready
from localllm.finetune.scratch.recipe import for_trainer
from localllm.finetune.scratch.result import KIND, Judged, Trained
from localllm.finetune.scratch.run import Asked, is_same
from localllm.library.derive import register_derived
from localllm.library.growing import digest_of
from localllm.library.lineage import lineage_metadata
from localllm.registry import Lineage, Model, Registry
from localllm.ui import Sink

if TYPE_CHECKING:
    from localllm.finetune.scratch.recipe import TrainRecipe

_NAMED = 200  # files of the data that lineage names: a folder may have a hundred thousand


def finish(
    ready: Ready, asked: Asked, name: str, place: Place, registry: Registry, sink: Sink,
    threads: int,
) -> Trained:  # fmt: skip
    """Train, write the file, judge it, register it. Raises GateFailed where llama.cpp does not
    see what training measured, and what the parts raise; nothing is registered then."""
    recipe, plan = asked.recipe, ready.plan
    trainer = for_trainer(recipe, steps=plan.steps, rows=plan.rows, lr=plan.lr)
    learning = Learning(ready, recipe, trainer, place, sink, threads)
    trained = learning.run(resume=asked.resume)
    lineage = _lineage(asked, name, ready)
    metadata = {"general.name": name, **lineage_metadata(lineage)}
    with sink.progress.bytes("write the model", None) as advance:
        write_model(
            learning.module, place.tokenizer, place.made, type=recipe.type, metadata=metadata,
            template=ready.template, advance=advance,
        )  # fmt: skip
    judged = _judge(ready, recipe, learning, place, sink, threads)
    drawn = outcome.samples(
        place.made, learning.prompts, recipe.sample_tokens, recipe.seed, threads
    )
    samples = tuple(drawn)
    model = _register(name, lineage, place, registry, sink)
    losses, held_out = curves(trained.history)
    done = Trained(
        model=model, name=model.name, reused=False, type=recipe.type,
        file_bytes=model.size_bytes, template=ready.dialect.chosen.name, data=ready.told,
        plan=ready.planned, learned=course_of(trained), judged=judged, samples=samples,
        along=learning.along, losses=losses, held_out=held_out, recipe=recipe.as_dict(),
    )  # fmt: skip
    registry.record(model, KIND, done.figures())
    place.clear()
    return done


def _judge(
    ready: Ready, recipe: TrainRecipe, learning: Learning, place: Place, sink: Sink, threads: int
) -> Judged:
    """The held-out text by the file and by torch, which have to agree, and by others."""
    places = outcome.judged_places(ready.held, recipe.seed)
    examples = [counted(ready.held.examples[k], recipe.learn) for k in places]
    by_torch = learning.loss_of(examples)
    n_ctx = ready.plan.shape.context
    try:
        loss = outcome.score(place.made, examples, n_ctx, threads, sink.progress)
    except DamagedFile as error:
        raise TrainingFailed(
            f"llama.cpp cannot compute with what was learned: {error.message}",
            "a lower learning rate: --lr, and --restart",
        ) from None
    outcome.check_same(loss, by_torch, recipe.type)
    tokenizer = ready.dialect.tokenizer
    return outcome.weigh(
        loss, by_torch, examples, ready.train, recipe.learn, tokenizer, sink.progress
    )


def _register(name: str, lineage: Lineage, place: Place, registry: Registry, sink: Sink) -> Model:
    """What --restart makes again goes, now that there is another: the machine may have decided its
    size and steps otherwise. A model that took the name meanwhile stays, and this is `name-2`."""
    with sink.progress.bytes("checksum", place.made.stat().st_size) as advance:
        digest = digest_of(place.made, advance)
    asked, data = lineage.parameters["asked"], lineage.inputs["data"]
    for model in registry.models():
        if model.name.casefold() == name.casefold() and is_same(model, asked, data):
            registry.remove(model)
    return register_derived(registry, None, [(place.made, digest)], name, lineage)


def _lineage(asked: Asked, name: str, ready: Ready) -> Lineage:
    recipe = asked.recipe
    words = ["localllm", "train", *option_words(replace(recipe, name=name), "name")]
    parameters: dict[str, Any] = {"asked": recipe.lineage(), "decided": ready.plan.figures()}
    inputs = {"data": ready.corpus.sha256} | {
        f"data:{file.name}": file.sha256 for file in ready.corpus.dataset.files[:_NAMED]
    }
    versions = {"localllm": __version__} | {
        one: version(one) for one in ("torch", "transformers", "tokenizers", "llama-cpp-python")
    }
    return Lineage("train", (), shlex.join(words), parameters, inputs, versions)
