"""What may be loaded beside what, and how: by the plan that `fit` prints."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from localllm.engine.options import ContextOptions
from localllm.engine.scheduler import SchedulerOptions, SharedGenerator
from localllm.errors import DoesNotFit, ModelNotFound
from localllm.formats.gguf import GGUFModel, read_model
from localllm.hardware import Hardware
from localllm.library.defaults import tuned
from localllm.placement import (
    Opened,
    Plan,
    PlanOptions,
    Target,
    open_model,
    settled_plan,
    this_machine,
)
from localllm.placement.here import look
from localllm.registry import Model
from localllm.serve.answering.feed import OnStep
from localllm.serve.resident.resident import EMBED_TOKENS, Resident
from localllm.ui import Bytes

if TYPE_CHECKING:
    from localllm.engine.load import Advance

# Conversations at once where nobody says --slots: as many of these as fit.
_SLOTS = (4, 2, 1)


@dataclass(frozen=True)
class LoadPolicy:
    """How models are loaded, all of them alike.

    `plan` has what each conversation may use; `slots` is how many run at once, None as many of
    four as fit. `said` are the fields of `plan` that the user decided. At most `max_loaded` are
    resident, within `memory_bytes` together (None: what the machine has).
    """

    plan: PlanOptions
    slots: int | None = None
    threads: int | None = None
    said: frozenset[str] = frozenset()
    require_gpu: bool = False
    force: bool = False
    max_loaded: int | None = None
    memory_bytes: int | None = None
    max_waiting: int = 256


@dataclass(frozen=True)
class _Wanted:
    """A model as it would be loaded now."""

    header: GGUFModel
    plan: Plan
    options: PlanOptions
    context: ContextOptions
    target: Target
    embeds: bool


class ResidentPlanner:
    """The pool's Planner. It knows the models that were asked for by their keys."""

    def __init__(self, policy: LoadPolicy, on_step: OnStep, advance: Advance | None = None) -> None:
        """`on_step` is called on each scheduler's thread when a step has been told."""
        self._policy = policy
        self._on_step = on_step
        self._advance = advance
        self._models: dict[str, Model] = {}
        self._plans: dict[str, Plan] = {}  # of what is or was loaded
        self._chosen: tuple[str, _Wanted] | None = None  # what `fits` said yes or no to
        self._lock = threading.Lock()

    def know(self, key: str, model: Model) -> None:
        with self._lock:
            self._models[key] = model

    def fits(self, name: str, loaded: Sequence[str]) -> bool:
        policy = self._policy
        if policy.max_loaded is not None and len(loaded) >= policy.max_loaded:
            return False
        wanted = self._wanted(name, loaded)
        self._chosen = name, wanted
        if policy.memory_bytes is not None:
            taken = sum(self._plans[key].total_bytes for key in loaded if key in self._plans)
            if taken + wanted.plan.total_bytes > policy.memory_bytes:
                return False
        return wanted.plan.runs or policy.force

    def open(self, name: str) -> Resident:
        chosen, self._chosen = self._chosen, None
        wanted = chosen[1] if chosen and chosen[0] == name else self._wanted(name, ())
        self._check_memory(name, wanted.plan)
        opened = open_model(
            self._model(name).path,
            wanted.options,
            require_gpu=self._policy.require_gpu,
            force=self._policy.force,
            target=wanted.target,
            context=wanted.context,
            advance=self._advance,
        )
        try:
            resident = self._resident(name, opened, wanted)
        except BaseException:
            opened.close()
            raise
        self._plans[name] = opened.plan
        return resident

    def _model(self, name: str) -> Model:
        with self._lock:
            model = self._models.get(name)
        if model is None:
            raise ModelNotFound(f"no model {name!r} is known here")
        return model

    def _check_memory(self, name: str, plan: Plan) -> None:
        """One that alone is more than --memory never fits."""
        limit = self._policy.memory_bytes
        if limit is not None and plan.total_bytes > limit and not self._policy.force:
            raise DoesNotFit(
                f"{self._model(name).name} needs {Bytes(plan.total_bytes)}, "
                f"more than the {Bytes(limit)} of --memory",
                "a smaller --ctx, fewer --slots, or a smaller variant",
            )

    def _resident(self, name: str, opened: Opened, wanted: _Wanted) -> Resident:
        policy, n_ctx = self._policy, wanted.plan.n_ctx
        longest = policy.plan.n_ctx or EMBED_TOKENS
        longest = min(longest, wanted.plan.n_ctx_train or longest)
        if wanted.embeds:
            resident = Resident(opened, None, n_ctx, longest)
            resident.embedder()
            return resident
        options = SchedulerOptions(max_waiting=policy.max_waiting, on_step=self._on_step)
        projectors = self._model(name).with_role("mmproj")
        mmproj = projectors[0].path if projectors else None
        generator = SharedGenerator(opened.context, options=options)
        return Resident(opened, generator, n_ctx, longest, mmproj, self._on_step)

    # --- planning --------------------------------------------------------------------------

    def _wanted(self, name: str, loaded: Sequence[str]) -> _Wanted:
        """Raises FileGone, DamagedFile, UsageProblem."""
        model, policy = self._model(name), self._policy
        header = read_model(model.path)
        embeds = bool(header.arch_u32("pooling_type"))
        hardware = look()
        target = self._left(this_machine(hardware), loaded)
        if embeds:
            # Its vectors have a context of their own; this one only has to be there.
            options = replace(policy.plan, n_ctx=256, n_parallel=1)
            options, context = self._tuned(model, hardware, options)
            plan = settled_plan(header, model.path, target, options)
            return _Wanted(header, plan, options, context, target, True)
        chosen: tuple[PlanOptions, ContextOptions, Plan] | None = None
        for slots in (policy.slots,) if policy.slots else _SLOTS:
            options = replace(policy.plan, n_parallel=slots, kv_unified=True)
            options, context = self._tuned(model, hardware, options)
            context = replace(context, n_outputs_max=slots)
            plan = settled_plan(header, model.path, target, options)
            better = chosen is None or _better(plan, chosen[2])
            if better:
                chosen = options, context, plan
        assert chosen is not None
        options, context, plan = chosen
        return _Wanted(header, plan, options, context, target, False)

    def _tuned(
        self, model: Model, hardware: Hardware, options: PlanOptions
    ) -> tuple[PlanOptions, ContextOptions]:
        """As `bench --auto` found best, but for what the user said."""
        context = ContextOptions(n_threads=self._policy.threads or 0)
        return tuned(model, hardware, options, context, self._policy.said) or (options, context)

    def _left(self, target: Target, loaded: Sequence[str]) -> Target:
        """The machine without the mapped weights of what is loaded: the system counts their
        pages as available, but to take them would slow every answer to the disk's pace."""
        mapped = sum(self._plans[key].host.mapped_bytes for key in loaded if key in self._plans)
        available = max(0, target.host_available_bytes - mapped)
        return replace(target, host_available_bytes=available)


def _better(plan: Plan, than: Plan) -> bool:
    """Whether fewer slots are worth it: it fits only so, or more of it fits on the GPU."""
    return (plan.runs, plan.n_offloaded) > (than.runs, than.n_offloaded)
