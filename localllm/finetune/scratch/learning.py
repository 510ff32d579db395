"""The training itself: the loop of fine-tuning on a model that begins with nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from localllm.finetune.curves import open_curves
from localllm.finetune.recipe import Recipe
from localllm.finetune.sampling import SampleAt
from localllm.finetune.scratch import outcome
from localllm.finetune.scratch.encode import Sequences, rows_of
from localllm.finetune.scratch.model import begin, named_of, optimizer_of, write_model
from localllm.finetune.scratch.network import network
from localllm.finetune.scratch.pace import reach_at
from localllm.finetune.scratch.place import Place
from localllm.finetune.scratch.recipe import TrainRecipe
from localllm.finetune.scratch.watching import ScratchWatcher
from localllm.finetune.training.checkpoint import load
from localllm.finetune.training.objectives import Likelihood
from localllm.finetune.training.records import Trained
from localllm.finetune.training.task import Learned, Task, evaluate
from localllm.finetune.training.trainer import Trainer

if TYPE_CHECKING:
    from localllm.finetune.data import Example
    from localllm.finetune.scratch.ready import Ready
    from localllm.ui import Sink

_LONGEST_SHOWN = 200


class Learning:
    """One run: the model in memory, and what it wrote along the way."""

    def __init__(
        self, ready: Ready, recipe: TrainRecipe, trainer: Recipe, place: Place, sink: Sink,
        threads: int,
    ) -> None:  # fmt: skip
        self._ready, self._recipe, self._trainer = ready, recipe, trainer
        self._place, self._sink, self._threads = place, sink, threads
        self.module: Any = begin(ready.plan.shape, recipe.seed)
        self.along: tuple[SampleAt, ...] = ()
        self.prompts = outcome.prompts(
            ready.held, recipe.sample_prompt, recipe.samples, ready.dialect, ready.corpus.is_chat
        )
        self._dtype = torch.bfloat16 if ready.plan.precision == "bf16" else torch.float32
        self._loop: Trainer | None = None
        self._task = self._made_task()

    def _made_task(self) -> Task:
        ready, learn = self._ready, self._recipe.learn
        plan = ready.plan
        train, held = ready.train.examples, ready.held.examples
        order = np.random.default_rng([self._recipe.seed, 3]).permutation(len(held))
        looked_at = [np.array([k]) for k in sorted(order[: plan.n_held].tolist())]
        return Task(
            module=self.module,
            scorer=network(self.module, self._dtype, plan.dropout, self._reach),
            learned=Learned(None, named_of(self.module)),
            objective=Likelihood(),
            train=Sequences(train, rows_of(train.lengths, plan.shape.context), learn),
            held_out=Sequences(held, looked_at, learn),
            pack_tokens=plan.pack_tokens,
            data_digest=plan.data,
            precision=plan.precision,
        )

    def run(self, *, resume: bool) -> Trained:
        """Train; the module then holds the weights that are kept. Raises as `Trainer.run`, and
        SourceFailed, OSError where curves cannot be opened."""
        sampler, recipe, place = self._sample if self.prompts else None, self._recipe, self._place
        known = load(place.checkpoint) if resume and (recipe.tensorboard or recipe.wandb) else None
        done = 0 if known is None else known[0].step
        curves = open_curves(recipe, place.label, place.run_id, done)
        with ScratchWatcher(place.label, self._sink, sampler, curves) as watcher:
            optimizer = optimizer_of(self.module, recipe, self._ready.plan.lr, self._dtype)
            self._loop = Trainer(self._task, self._trainer, place, watcher, optimizer=optimizer)
            return self._loop.run(resume=resume)

    def _reach(self) -> int | None:
        """How far the step sees that is computed now."""
        loop = self._loop
        return None if loop is None else reach_at(loop.done / loop.n_steps)

    def loss_of(self, examples: Sequence[Example]) -> float:
        """The mean loss in nats a token, computed in float32 whatever was trained in."""
        task = replace(
            self._task, scorer=network(self.module, torch.float32),
            held_out=[[one] for one in examples],
        )  # fmt: skip
        return evaluate(task)[0]

    def _sample(self, step: int) -> None:
        """What llama.cpp writes with the weights as they stand; shown and kept."""
        place, recipe = self._place, self._recipe
        write_model(
            self.module, place.tokenizer, place.sample, type="F16", metadata={},
            template=self._ready.template,
        )  # fmt: skip
        try:
            for one in outcome.samples(
                place.sample, self.prompts[:1], recipe.sample_tokens, recipe.seed, self._threads
            ):
                self.along = (*self.along, SampleAt(step, one))
                said = " ".join(f"{one.prompt}|{one.answer}".split())[:_LONGEST_SHOWN]
                self._sink.note(f"step {step}: {said}")
                self._sink.progress.event(
                    "sample", {"step": step, "prompt": one.prompt, "answer": one.answer}
                )
        finally:
            place.sample.unlink(missing_ok=True)
