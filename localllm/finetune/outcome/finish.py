"""The end of a run: written, judged by llama.cpp, registered; or not there at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from localllm.errors import DamagedFile, GateFailed, TrainingFailed
from localllm.finetune.course import course_of
from localllm.finetune.outcome.judge import GAIN, KEPT, MOST_JUDGED, Engine, Judged
from localllm.finetune.outcome.result import (
    KIND,
    BeforeAfter,
    Learned,
    SamplePair,
    Tuned,
    curves,
)
from localllm.finetune.outcome.writing import write_adapter, write_model
from localllm.finetune.sampling import SampleAt, sample_prompts
from localllm.finetune.training.memory import PeakMemory
from localllm.library.derive import register_derived
from localllm.library.growing import digest_of
from localllm.library.lineage import lineage_metadata

if TYPE_CHECKING:
    from localllm.finetune.building import Built
    from localllm.finetune.data import Example
    from localllm.finetune.run import Ready
    from localllm.finetune.training.records import Trained
    from localllm.finetune.workplace import Workplace
    from localllm.registry import Model, Registry
    from localllm.ui import Sink


def finish(
    ready: Ready, built: Built, trained: Trained, along: Sequence[SampleAt], registry: Registry,
    sink: Sink, place: Workplace,
) -> Tuned:  # fmt: skip
    """Write what was learned, judge it with the engine that will run it, register it.

    Raises GateFailed where llama.cpp does not see what training measured; DiskFull and what
    the engine raises. The run's state is kept then, and nothing is registered.
    """
    is_adapter = built.adapters is not None and ready.recipe.method != "dora"
    metadata = {**lineage_metadata(ready.lineage), **_template_key(ready)}
    with PeakMemory(torch.device(ready.layout.device)) as memory:
        if is_adapter:
            write_adapter(built, place.made, metadata)
        else:
            with sink.progress.bytes("write the model", None) as advance:
                write_model(built, place.made, metadata, advance)
        try:
            judged, samples = judge(ready, place, sink, is_adapter=is_adapter)
        except DamagedFile as error:
            raise TrainingFailed(
                f"llama.cpp cannot compute with what was learned: {error.message}",
                "a lower learning rate: --lr, and --restart",
            ) from None
    _check(trained, judged)
    model = _register(ready, registry, place, sink)
    losses, held_out = curves(trained.history)
    done = Tuned(
        model=model,
        name=model.name,
        base=ready.subject.model.name,
        kind="adapter" if is_adapter else "model",
        method=ready.recipe.method,
        objective=ready.recipe.objective,
        reused=False,
        n_params=sum(p.numel() for p in built.task.learned.named.values()),
        file_bytes=model.size_bytes,
        n_examples=len(ready.learning.train),
        n_held_out=len(ready.learning.held_out),
        template=ready.learning.prepared.report.template,
        learned=_learned(ready, built, trained, memory.peak_bytes),
        judged=judged,
        samples=samples,
        along=tuple(along),
        losses=losses,
        held_out=held_out,
        recipe=ready.recipe.as_dict(),
    )
    registry.record(model, KIND, done.figures())
    place.clear()
    if judged is not None and not judged.is_better:
        sink.warn(
            f"on the held-out examples it is no better than {done.base}: "
            "more or other data, a higher --lr, or more --epochs"
        )
    return done


def judge(
    ready: Ready, place: Workplace, sink: Sink, *, is_adapter: bool
) -> tuple[BeforeAfter | None, tuple[SamplePair, ...]]:
    """The held-out examples and sample answers, of the base and of what was made."""
    learning, recipe = ready.learning, ready.recipe
    items = [learning.held_out[i] for i in range(min(MOST_JUDGED, len(learning.held_out)))]
    sides = [[item[0] for item in items]]
    if learning.prepared.is_pairs:
        sides.append([item[1] for item in items])
    prompts = sample_prompts(ready) if recipe.samples else []
    lengths = [len(one) for side in sides for one in side] + [len(one) for one in prompts]
    longest = max(lengths, default=0)
    n_ctx = max(longest, ready.layout.pack_tokens) + recipe.sample_tokens + 8
    n_tokens = 2 * sum(len(one) for side in sides for one in side)
    with sink.progress.steps("judged by llama.cpp", n_tokens or None) as advance:
        with Engine(ready.subject.model.path, n_ctx, threads=ready.threads) as engine:
            before = [engine.judge(side, advance) for side in sides] if items else []
            said = list(engine.answers(prompts, recipe.sample_tokens))
            if is_adapter:
                engine.use(place.made)
                after = [engine.judge(side, advance) for side in sides] if items else []
                says = list(engine.answers(prompts, recipe.sample_tokens))
        if not is_adapter:
            with Engine(place.made, n_ctx, threads=ready.threads) as engine:
                after = [engine.judge(side, advance) for side in sides] if items else []
                says = list(engine.answers(prompts, recipe.sample_tokens))
    samples = tuple(
        SamplePair(one.prompt, one.answer, other.answer)
        for one, other in zip(said, says, strict=True)
    )
    if not items:
        return None, samples
    return BeforeAfter(before[0], after[0], _preferred(before, sides), _preferred(after, sides)), (
        samples
    )


def _preferred(judged: Sequence[Judged], sides: Sequence[Sequence[Example]]) -> float | None:
    """The share of pairs whose chosen answer is likelier than the rejected one."""
    if len(judged) < 2:
        return None
    sums = [
        [mean * one.n_targets for mean, one in zip(side.of_examples, examples, strict=True)]
        for side, examples in zip(judged, sides, strict=True)
    ]
    better: int = sum(chosen < rejected for chosen, rejected in zip(*sums, strict=True))
    return better / len(sums[0])


def _check(trained: Trained, judged: BeforeAfter | None) -> None:
    """That llama.cpp sees what training measured: the file would be wrong otherwise."""
    if judged is None or judged.preferred_before is not None:
        return
    if trained.loss_before is None or trained.loss_after is None:
        return
    gain = trained.loss_before - trained.loss_after
    seen = judged.before.loss - judged.after.loss
    if gain > GAIN and seen < KEPT * gain:
        raise GateFailed(
            f"training lowered the held-out loss by {gain:.3f}, and llama.cpp sees {seen:.3f} of "
            "it: the result was thrown away",
            "the state of the run is kept; report this, it is a defect",
        )


def _learned(ready: Ready, built: Built, trained: Trained, judging_bytes: int) -> Learned:
    """The memory is that of the whole run, as a dry run tells it: what was trained is still there
    beside the engine that judges it."""
    course = replace(course_of(trained), peak_bytes=max(trained.peak_bytes, judging_bytes))
    return Learned(
        **vars(course),
        targets=trained.targets,
        precision=built.precision,
        base_weights=ready.layout.frozen,
        pack_tokens=ready.layout.pack_tokens,
        checkpointing=ready.layout.checkpointing,
        shards=ready.layout.shards,
        device=ready.layout.device,
    )


def _register(ready: Ready, registry: Registry, place: Workplace, sink: Sink) -> Model:
    with sink.progress.bytes("checksum", place.made.stat().st_size) as advance:
        digest = digest_of(place.made, advance)
    model = register_derived(
        registry, ready.subject.model, [(place.made, digest)], ready.name, ready.lineage
    )
    chosen = ready.learning.prepared.template
    if chosen.is_new and ready.template is not None:
        model = registry.note(model, "chat_template", chosen.source)
    if ready.recipe.system:
        model = registry.note(model, "system", ready.recipe.system)
    return model


def _template_key(ready: Ready) -> dict[str, str]:
    """A template that the base does not bring goes with what was trained with it."""
    chosen = ready.learning.prepared.template
    if not chosen.is_new or ready.template is None:
        return {}
    return {"tokenizer.chat_template": ready.template}
