"""The loop: steps, evaluation, checkpoints; stopped cleanly, continued exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from localllm.errors import Interrupted, TrainingFailed
from localllm.finetune.recipe import FIXED, Recipe
from localllm.finetune.training.batches import Batches, Pack
from localllm.finetune.training.checkpoint import Checkpoint
from localllm.finetune.training.device import let_go, of_module
from localllm.finetune.training.group import ALONE, Group
from localllm.finetune.training.keeping import Keeper
from localllm.finetune.training.memory import PeakMemory
from localllm.finetune.training.records import (
    EvalRecord,
    History,
    StepRecord,
    Stopped,
    Trained,
    Watcher,
)
from localllm.finetune.training.scaling import LossScale
from localllm.finetune.training.schedule import learning_rate
from localllm.finetune.training.stopping import StopFlag
from localllm.finetune.training.task import (
    Place,
    Task,
    evaluate,
    evaluation_pace,
    optimizer_of,
    planned_steps,
)
from localllm.finetune.training.whole import plain_state, whole


class Trainer:
    """One run. `place` says where its state is kept."""

    def __init__(
        self, task: Task, recipe: Recipe, place: Place, watcher: Watcher, group: Group = ALONE,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:  # fmt: skip
        self.task, self.recipe, self.watcher, self.group = task, recipe, watcher, group
        self.batches = Batches(task.train, recipe.batch_size, task.pack_tokens, recipe.seed)
        self.n_steps = planned_steps(recipe, len(task.train))
        self.warmup = round(recipe.warmup * self.n_steps)
        self.optimizer = optimizer or optimizer_of(task.learned, recipe)
        self.keeper = Keeper(task, self.optimizer, place, group)
        self.device = of_module(task.module)
        self.scale = LossScale.of(task.precision)
        self.history = History()
        self.done = 0
        self.best_step, self.best_loss, self.waited = 0, math.inf, 0
        self.saved_step: int | None = None

    # --- the run --------------------------------------------------------------------------

    def run(self, *, resume: bool) -> Trained:
        """Train to the end, or until the held-out loss stops falling.

        Raises Interrupted (Ctrl-C; the last finished step is on disk), TrainingFailed (the loss
        is no number; the last good checkpoint is kept), DiskFull, and with `resume`
        UsageProblem where the checkpoint was begun otherwise.
        """
        if resume:
            self._restore()
        with PeakMemory(self.device) as memory, StopFlag() as stop:
            self.watcher.begin(self.n_steps, self.done)
            if self._owes_evaluation():
                self._evaluate(stop)
            while self.done < self.n_steps and not self._has_waited():
                self._step(memory, stop)
                if self._is_due(self.recipe.sample_every):
                    let_go(self.device)
                    self.watcher.sample(self.done)
                if self._is_due(self.eval_every):
                    self._evaluate(stop)
                if self._is_due(self.save_every) and self._may_save():
                    self.save()
        peak = memory.highest_bytes
        kept = self._choose()
        self.optimizer.zero_grad(set_to_none=True)
        let_go(self.device)
        stopped: Stopped = "early" if self._has_waited() else "done"
        records = self.history.steps
        return Trained(
            steps=self.done,
            planned_steps=self.n_steps,
            stopped=stopped,
            kept_step=kept,
            history=self.history,
            tokens=sum(one.tokens for one in records),
            targets=sum(one.targets for one in records),
            seconds=sum(one.seconds for one in records),
            peak_bytes=max([peak, *(one.memory_bytes for one in records)]),
        )

    @property
    def eval_every(self) -> int:
        return evaluation_pace(self.recipe, self.n_steps)

    @property
    def save_every(self) -> int:
        return self.recipe.save_every or self.eval_every

    def _is_due(self, every: int) -> bool:
        return bool(every) and (self.done % every == 0 or self.done == self.n_steps)

    def _may_save(self) -> bool:
        is_asked_for = self.recipe.save_every is not None or self.done == self.n_steps
        return is_asked_for or self.keeper.is_worth()

    def _owes_evaluation(self) -> bool:
        """Whether the one before the first step, or of a step that a run stopped at, is missing."""
        evals = self.history.evals
        return not evals or (evals[-1].step < self.done and self._is_due(self.eval_every))

    def _has_waited(self) -> bool:
        return self.recipe.patience is not None and self.waited >= self.recipe.patience

    # --- one step -------------------------------------------------------------------------

    def _step(self, memory: PeakMemory, stop: StopFlag) -> None:
        began = time.perf_counter()
        memory.reset()
        packs = self.batches.step(self.done)
        objective = self.task.objective
        count = max(1, sum(objective.count(pack) for pack in packs))
        self.task.module.train()
        total, norm, extra = self._gradients(packs, count, stop)
        rate = learning_rate(
            self.done, self.n_steps, self.recipe.learning_rate,
            self.recipe.schedule, self.warmup, self.recipe.lr_floor,  # type: ignore[arg-type]
        )  # fmt: skip
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise self._diverged(total)
        for part in self.optimizer.param_groups:
            part["lr"] = rate
        self.optimizer.step()
        self.task.learned.changed()
        self.scale.went_well()
        self.done += 1
        memory.look()
        record = StepRecord(
            step=self.done,
            epoch=self.done / self.batches.steps_per_epoch,
            loss=total,
            learning_rate=rate,
            grad_norm=norm,
            tokens=sum(pack.n_tokens for pack in packs),
            targets=sum(pack.n_targets for pack in packs),
            seconds=time.perf_counter() - began,
            memory_bytes=memory.peak_bytes,
            extra=extra,
        )
        self.history = replace(self.history, steps=(*self.history.steps, record))
        self.watcher.step(record)

    def _gradients(
        self, packs: Sequence[Pack], count: int, stop: StopFlag
    ) -> tuple[float, float, dict[str, float]]:
        """The step's gradients, summed over all and clipped; its loss, their norm, and what goes
        with the loss. Computed again at a smaller scale where float16 overflowed."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            # dropout of a step is the same whatever came before, a resumed run included: on every
            # device, so that no generator's state has to be kept
            torch.manual_seed(
                (self.recipe.seed << 32) + self.done * self.group.size + self.group.rank
            )
            total, extra = self._backward(packs, count, stop)
            self.group.sum_gradients(self.task.learned.named.values())
            self.scale.undo(self.task.learned.named.values())
            norm = self._clip()
            if math.isfinite(norm) or not math.isfinite(total) or not self.scale.shrink():
                return total, norm, extra

    def _backward(
        self, packs: Sequence[Pack], count: int, stop: StopFlag
    ) -> tuple[float, dict[str, float]]:
        """Gradients of the step's loss, pack by pack; the loss, and what goes with it."""
        found_losses, extra = list[torch.Tensor](), dict[str, float]()
        for pack in self.group.rounds(packs):
            self._check(stop)
            if pack is None:
                self.task.scorer.lend()
                continue
            found, beside = self.task.objective.total(self.task.scorer.losses(pack), pack)
            loss = found / count
            (loss * self.scale.value if self.scale.is_on else loss).backward()  # type: ignore[no-untyped-call]
            found_losses.append(loss.detach())
            for key, value in beside.items():
                extra[key] = extra.get(key, 0.0) + value / count
        self._check(stop)
        # read when all packs are under way: each reading waits for the device
        total = sum(float(one) for one in found_losses)
        return self.group.sum_number(total), self.group.sum_each(extra)

    def _clip(self) -> float:
        parameters = [p for p in self.task.learned.named.values() if p.grad is not None]
        limit = self.recipe.max_grad_norm or math.inf
        return float(whole(torch.nn.utils.clip_grad_norm_(parameters, limit)))

    def _check(self, stop: StopFlag) -> None:
        """Ctrl-C: nothing of the step that was begun has changed the weights yet."""
        if not self.group.any(stop.is_set):
            return
        if self.done:
            self.save()
        raise Interrupted(
            f"stopped after step {self.done} of {self.n_steps}"
            + ("; its state is kept" if self.done else ""),
            "run the same command with --resume" if self.done else None,
        )

    def _diverged(self, loss: float) -> TrainingFailed:
        kept = "no checkpoint was written yet" if self.saved_step is None else (
            f"the checkpoint of step {self.saved_step} is kept"
        )  # fmt: skip
        what = "loss" if not math.isfinite(loss) else "gradient"
        rate = self.recipe.learning_rate / 4
        resume = "" if self.saved_step is None else " --resume"
        return TrainingFailed(
            f"the {what} is no number any more at step {self.done + 1} of {self.n_steps}; {kept}",
            f"a lower learning rate: --lr {rate:.1g}{resume}",
        )

    # --- evaluation -----------------------------------------------------------------------

    def _evaluate(self, stop: StopFlag) -> None:
        if not self.task.held_out:
            return
        began = time.perf_counter()
        loss, extra = evaluate(self.task, self.group, lambda: self._check(stop))
        # the base itself is judged too, but what is kept is something that was learned
        is_best = self.done > 0 and loss < self.best_loss
        record = EvalRecord(self.done, loss, is_best, time.perf_counter() - began, extra)
        self.history = replace(self.history, evals=(*self.history.evals, record))
        if is_best:
            self.best_step, self.best_loss, self.waited = self.done, loss, 0
            self.keeper.save_best(self.done)
        elif self.done:
            self.waited += 1
        self.watcher.evaluated(record)

    def _choose(self) -> int:
        """Put the weights in place that are kept; the step they are of."""
        wanted = self.recipe.keep == "best" and self.task.held_out
        if not wanted or self.best_step in (0, self.done):
            return self.done
        return self.best_step if self.keeper.restore_best(self.best_step) else self.done

    # --- state ----------------------------------------------------------------------------

    def save(self) -> None:
        """Keep all that is needed to go on. Raises DiskFull."""
        self.keeper.save(
            Checkpoint(
                step=self.done,
                optimizer=plain_state(self.optimizer),
                fixed=self._fixed(),
                history=self.history.as_json(),
                best_step=self.best_step,
                waited=self.waited,
                reference=dict(getattr(self.task.objective, "reference", {})),
                precision=self.task.precision,
                scaling=self.scale.state(),
            )
        )
        self.saved_step = self.done
        if self.group.is_first:
            self.watcher.saved(self.done)

    def _restore(self) -> None:
        known = self.keeper.restore(self._fixed())
        if known is None:
            return
        self.scale.load(known.scaling)
        self.history = History.from_json(known.history)
        self.done = self.saved_step = known.step
        self.best_step, self.waited = known.best_step, known.waited
        self.best_loss = min((e.loss for e in self.history.evals if e.step), default=math.inf)

    def _fixed(self) -> dict[str, Any]:
        recipe = self.recipe.as_dict()
        return {"data": self.task.data_digest} | {key: recipe[key] for key in FIXED}
