"""Two models that must fit together: one that answers, and a small one that drafts for it.

with open_with_draft(path, draft_path, PlanOptions(n_ctx=8192)) as pair:
    DraftGenerator(pair.main.context, pair.draft.context)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.closing import Closing
from localllm.engine.options import ContextOptions, LoadOptions
from localllm.errors import DoesNotFit, UsageProblem
from localllm.formats.gguf import GGUFModel, read_model
from localllm.placement.here import this_machine
from localllm.placement.opening import Opened, does_not_fit, open_model, settled_plan
from localllm.placement.options import PlanOptions
from localllm.placement.plan import Plan
from localllm.placement.shape import model_shape
from localllm.placement.target import Target
from localllm.ui import Bytes

if TYPE_CHECKING:
    from localllm.engine.load import Advance

# Rows of logits that verifying a draft adds in main memory: DraftOptions.n_max tokens and one.
_ROWS = 17
_F32 = 4


@dataclass(frozen=True)
class PairPlan:
    """Where both go. The draft comes first: it is small, and computes several times a step."""

    main: Plan
    draft: Plan

    @property
    def runs(self) -> bool:
        return self.main.runs and self.draft.runs

    @property
    def total_bytes(self) -> int:
        return self.main.total_bytes + self.draft.total_bytes


@dataclass
class OpenedPair(Closing):
    """Both loaded, each with its context. Closing frees all."""

    main: Opened
    draft: Opened
    plan: PairPlan

    def close(self) -> None:
        self.draft.close()
        self.main.close()


def plan_with_draft(
    path: Path,
    draft_path: Path,
    options: PlanOptions | None = None,
    *,
    target: Target | None = None,
    draft_options: PlanOptions | None = None,
) -> PairPlan:
    """Place the draft, and the model in what is left.

    `draft_options` default to a context as long as the model's (at most what the draft was
    trained for: beyond it guesses badly), and all layers where they fit best.
    Raises as `plan_for` does; UsageProblem where the headers tell already that the vocabularies
    differ.
    """
    options = options or PlanOptions()
    target = target or this_machine()
    main, draft = read_model(path), read_model(draft_path)
    _check_headers(path, main, draft_path, draft)
    draft_options = draft_options or _options_for_draft(main, draft, options)
    draft_plan = settled_plan(draft, draft_path, target, draft_options)
    rest = beside(target, draft_plan, _ROWS * _F32 * model_shape(main).n_vocab)
    return PairPlan(settled_plan(main, path, rest, options), draft_plan)


def open_with_draft(
    path: Path,
    draft_path: Path,
    options: PlanOptions | None = None,
    *,
    require_gpu: bool = False,
    force: bool = False,
    target: Target | None = None,
    draft_options: PlanOptions | None = None,
    load: LoadOptions | None = None,
    context: ContextOptions | None = None,
    advance: Advance | None = None,
) -> OpenedPair:
    """Plan both in one go, then load both; nothing is loaded where they do not fit together.

    Parameters as `open_model`'s; `advance` gets the bytes of both. Raises as it does.
    """
    options = options or PlanOptions()
    target = target or this_machine()
    main, draft = read_model(path), read_model(draft_path)
    draft_options = draft_options or _options_for_draft(main, draft, options)
    plan = plan_with_draft(path, draft_path, options, target=target, draft_options=draft_options)
    if not plan.runs and not force:
        raise _not_together(path, draft_path, plan)
    rest = beside(target, plan.draft, _ROWS * _F32 * model_shape(main).n_vocab)
    opened = open_model(
        path, options, require_gpu=require_gpu, force=force, target=rest, load=load,
        context=context, advance=advance,
    )  # fmt: skip
    try:
        drafting = open_model(
            draft_path, draft_options, require_gpu=require_gpu, force=force, target=target,
            load=load, context=context, advance=advance,
        )  # fmt: skip
    except BaseException:
        opened.close()
        raise
    return OpenedPair(opened, drafting, plan)


def beside(target: Target, plan: Plan, host_bytes: int = 0) -> Target:
    """`target` with what `plan` takes, and `host_bytes` more, no longer free."""
    taken = {device.name: device.total_bytes for device in plan.devices}
    return taking(target, taken, plan.host.total_bytes + host_bytes)


def taking(target: Target, gpu_bytes: dict[str, int], host_bytes: int) -> Target:
    """`target` with so much less free: `gpu_bytes` by the GPU's name."""
    gpus = tuple(
        replace(gpu, free_bytes=max(0, gpu.free_bytes - gpu_bytes.get(gpu.name, 0)))
        for gpu in target.gpus
    )
    shared = sum(gpu_bytes.get(gpu.name, 0) for gpu in target.gpus if gpu.shares_host_memory)
    left = max(0, target.host_available_bytes - host_bytes - shared)
    return replace(target, gpus=gpus, host_available_bytes=left)


def _options_for_draft(main: GGUFModel, draft: GGUFModel, options: PlanOptions) -> PlanOptions:
    n_ctx = options.wanted_n_ctx(model_shape(main))
    trained = model_shape(draft).n_ctx_train
    return replace(
        options, n_ctx=min(n_ctx, trained or n_ctx), n_gpu_layers=None, n_cpu_moe=0,
        tensor_split=(),
    )  # fmt: skip


def _check_headers(path: Path, main: GGUFModel, draft_path: Path, draft: GGUFModel) -> None:
    """What the files tell before anything is loaded; the engine compares every token."""
    kinds = [one.text("tokenizer.ggml.model") for one in (main, draft)]
    if kinds[0] != kinds[1] and None not in kinds:
        raise UsageProblem(
            f"{draft_path.name} cannot draft for {path.name}: its vocabulary is of another kind "
            f"({kinds[1]}, not {kinds[0]})",
            "use a smaller model of the same family, or --draft ngram",
        )


def _not_together(path: Path, draft_path: Path, plan: PairPlan) -> DoesNotFit:
    if not plan.draft.runs:
        return does_not_fit(draft_path.name, plan.draft)
    alone = does_not_fit(path.name, plan.main)
    return DoesNotFit(
        f"{alone.message}, beside the draft's {Bytes(plan.draft.total_bytes)}",
        alone.hint if plan.main.largest_n_ctx else "run it without --draft",
    )
