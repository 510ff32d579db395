"""From a base and its data to what can be trained: the model in memory, ready for packs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from localllm.errors import UsageProblem
from localllm.finetune.model import load_causal
from localllm.finetune.plan import Layout
from localllm.finetune.recipe import Recipe
from localllm.finetune.training.adapters import AdapterOptions, Adapters, attach
from localllm.finetune.training.batches import Batches
from localllm.finetune.training.forward import scorer
from localllm.finetune.training.group import ALONE, Group
from localllm.finetune.training.objectives import (
    DirectPreference,
    Likelihood,
    Objective,
    OddsRatio,
    sums,
)
from localllm.finetune.training.precision import DTYPES, PrecisionTrial, try_precisions
from localllm.finetune.training.task import Learned, Scores, Task

if TYPE_CHECKING:
    from localllm.finetune.model import LoadedModel
    from localllm.finetune.request import Learning, Subject
    from localllm.ui import Progress


@dataclass(frozen=True)
class Built:
    """A task and what it was made of."""

    task: Task
    loaded: LoadedModel
    adapters: Adapters | None
    precision: str
    trial: PrecisionTrial | None


def adapter_options(recipe: Recipe) -> AdapterOptions:
    """What the recipe says of adapters."""
    return AdapterOptions(
        rank=recipe.rank,
        alpha=recipe.alpha,
        targets=recipe.targets,
        dropout=recipe.dropout,
        rslora=recipe.method == "rslora",
        dora=recipe.method == "dora",
    )


def build(
    subject: Subject, learning: Learning, recipe: Recipe, layout: Layout,
    adapter: Path | None, group: Group = ALONE, begun_in: str | None = None,
) -> Built:  # fmt: skip
    """Load the base where it is to compute and put on it what learns. `adapter` is one to go on
    from; `begun_in` is the precision of a run that is gone on with.

    Raises what loading raises, and UsageProblem for an adapter that does not fit.
    """
    precision, trial = precision_of(recipe, subject, group, begun_in, layout.device)
    dtype = DTYPES[precision]
    loaded = load_causal(
        subject.model.path,
        frozen=layout.frozen,
        trainable="none" if recipe.is_adapter else "all",
        empty=group.shards,
        device=layout.device,
        matrices=held_in(recipe, precision, layout.device),
    )
    module: Any = loaded.module
    adapters = None
    if recipe.is_adapter:
        adapters = attach(module, adapter_options(recipe), recipe.seed)
        if adapter is not None:
            _go_on(adapters, loaded, adapter)
    if layout.checkpointing:
        kept = {"use_reentrant": False}
        if hasattr(module, "activation_checkpointing_enable"):  # its name since transformers 5.2x
            module.activation_checkpointing_enable(kept)
        else:
            module.gradient_checkpointing_enable(kept)
    if group.shards:
        scores = _sharded(loaded, group, dtype, torch.device(layout.device))
    else:
        scores = scorer(module, dtype)
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    task = Task(
        module=module,
        scorer=scores,
        learned=Learned(adapters, named),
        objective=_objective(recipe),
        train=learning.train,
        held_out=learning.held_out,
        pack_tokens=layout.pack_tokens,
        data_digest=learning.prepared.report.sha256,
        precision=precision,
    )
    return Built(task, loaded, adapters, precision, trial)


def _sharded(loaded: LoadedModel, group: Group, dtype: torch.dtype, device: torch.device) -> Scores:
    from localllm.finetune.training.sharding import shard  # torch's parts of it take seconds

    return shard(loaded, group, dtype, device)


def precision_of(
    recipe: Recipe, subject: Subject, group: Group, begun_in: str | None = None,
    device: str = "cpu",
) -> tuple[str, PrecisionTrial | None]:  # fmt: skip
    """What is computed in. `auto` is what the run was begun in; a new one tries all on a layer
    of this model's size, and takes less than f32 only where every process finds it worth it.
    Raises UsageProblem for f16 on the CPU, which has no products in it."""
    is_cpu = device == "cpu"
    if recipe.precision == "f16" and is_cpu:
        raise UsageProblem("--precision f16 is for GPUs", "--precision bf16, or f32")
    if recipe.precision != "auto":
        return recipe.precision, None
    if begun_in is not None and not (begun_in == "f16" and is_cpu):
        return begun_in, None
    sizes = subject.base.sizes
    trial = try_precisions(sizes.n_embd, sizes.n_ff, device)
    all_chose_it = group.sum_number(trial.best != "f32") == group.size
    if not all_chose_it:
        return "f32", trial
    # of GPUs of different kinds the first process's choice
    return ("bf16" if is_cpu else group.told(trial.best)), trial


def held_in(recipe: Recipe, precision: str, device: str) -> str | None:
    """On a GPU the frozen matrices are held in what they are multiplied in, half the size and to
    the same result. Not DoRA's, which are written again; on the CPU they are the mapped file."""
    if device == "cpu" or precision == "f32" or recipe.method not in ("lora", "rslora"):
        return None
    return str(DTYPES[precision]).removeprefix("torch.")


def _objective(recipe: Recipe) -> Objective:
    if recipe.objective == "dpo":
        return DirectPreference(recipe.beta)
    return OddsRatio(recipe.orpo_weight) if recipe.objective == "orpo" else Likelihood()


def _go_on(adapters: Adapters, loaded: LoadedModel, path: Path) -> None:
    """Let the adapters begin as the one in the file. Raises UsageProblem where it is of another
    shape, DamagedFile where it is none."""
    from localllm.finetune.model import effective_scale, read_adapter

    found = read_adapter(path, loaded)
    for name, layer in adapters.layers.items():
        pair = found.pairs.get(name)
        if pair is None or pair.a.shape != layer.a.shape or pair.b.shape != layer.b.shape:
            raise UsageProblem(
                f"{path.name} is an adapter of another shape at {name}",
                "give the --rank and --targets that it was made with",
            )
        ratio = effective_scale(pair, found.alpha, rslora=False) / layer.scale
        with torch.no_grad():
            layer.a.copy_(torch.as_tensor(pair.a))
            layer.b.copy_(torch.as_tensor(pair.b) * ratio)
    if set(found.pairs) - set(adapters.layers):
        raise UsageProblem(
            f"{path.name} has adapters on more layers than --targets names",
            "give the --targets that it was made with",
        )


def add_reference(
    built: Built, progress: Progress, known: Mapping[int, Any] | None, group: Group = ALONE
) -> None:
    """DPO: the log-probability of every answer before anything is learned, computed once, a share
    in each process.

    Numbers are those of the items trained on and, behind them, the held-out ones. `known` are
    those of a run that is gone on with.
    """
    task = built.task
    if not isinstance(task.objective, DirectPreference):
        return
    items = [*task.train, *task.held_out]
    if known and len(known) == len(items):
        task.objective.reference.update(known)
        return
    batches = Batches(items, len(items), task.pack_tokens, 0)
    found: dict[int, tuple[float, float]] = {}
    task.module.eval()
    with torch.no_grad(), progress.steps("preferences before", len(items)) as advance:
        for pack in chain.from_iterable(map(group.rounds, batches.windows())):
            if pack is None:
                task.scorer.lend()
                continue
            logp = (-sums(task.scorer.losses(pack), pack)).tolist()
            for place, number in enumerate(pack.items):
                found[number] = (logp[2 * place], logp[2 * place + 1])
            advance(pack.n_items * group.size)
    task.scorer.rest()
    for one in group.all_of(found):
        task.objective.reference.update(one)
