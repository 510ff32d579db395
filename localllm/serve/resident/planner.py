"""What may be loaded beside what, and how: by the plan that `fit` prints."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from localllm.engine.options import ContextOptions
from localllm.engine.scheduler import SchedulerOptions, SharedGenerator
from localllm.errors import DoesNotFit, LocalLLMError, ModelNotFound
from localllm.formats.gguf import GGUFModel, read_model
from localllm.hardware import Hardware
from localllm.library.defaults import tuned
from localllm.placement import (
    DEFAULT_N_CTX,
    Opened,
    Plan,
    PlanOptions,
    ProjectorNeed,
    Target,
    beside_projector,
    open_model,
    projector_need,
    settled_plan,
    this_machine,
    vector_options,
)
from localllm.placement.drafting import taking
from localllm.placement.here import look
from localllm.registry import Model
from localllm.serve.answering.feed import OnStep
from localllm.serve.resident.embedder import Embedder
from localllm.serve.resident.making import embedder_beside
from localllm.serve.resident.resident import Projector, Resident
from localllm.ui import Bytes

if TYPE_CHECKING:
    from localllm.engine.load import Advance

# Conversations at once where nobody says --slots: as many of these as fit.
_SLOTS = (4, 2, 1)

# What a text to embed may be long where nobody says --ctx: its whole attention is computed at
# once, so that memory grows with it.
EMBED_TOKENS = 2048


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
    projector: Projector | None = None

    @property
    def total_bytes(self) -> int:
        return self.plan.total_bytes + (self.projector.need.all_bytes if self.projector else 0)


@dataclass(frozen=True)
class _Known:
    """A model that was asked for. `n_ctx` is the context that the name it was last asked for by
    wants (num_ctx in a Modelfile), None the default."""

    model: Model
    n_ctx: int | None


class ResidentPlanner:
    """The pool's Planner. It knows the models that were asked for by their keys."""

    def __init__(self, policy: LoadPolicy, on_step: OnStep, advance: Advance | None = None) -> None:
        """`on_step` is called on each scheduler's thread when a step has been told."""
        self._policy = policy
        self._on_step = on_step
        self._advance = advance
        self._known: dict[str, _Known] = {}
        self._residents: weakref.WeakValueDictionary[str, Resident] = weakref.WeakValueDictionary()
        self._chosen: tuple[str, _Wanted] | None = None  # what `fits` said yes or no to
        self._lock = threading.Lock()

    def know(self, key: str, model: Model, n_ctx: int | None = None) -> None:
        """`key` means `model`, with a context of `n_ctx` where the operator said nothing."""
        with self._lock:
            self._known[key] = _Known(model, n_ctx)

    def too_short(self, resident: Resident, n_ctx: int | None) -> bool:
        """Whether it was loaded with a shorter context than `n_ctx`, or than the default."""
        if resident.generator is None or self._policy.plan.n_ctx is not None:
            return False
        n_ctx_train = resident.opened.plan.n_ctx_train
        default = min(DEFAULT_N_CTX, n_ctx_train or DEFAULT_N_CTX)
        return resident.n_ctx < (n_ctx or default)

    def fits(self, name: str, loaded: Sequence[str]) -> bool:
        policy = self._policy
        if policy.max_loaded is not None and len(loaded) >= policy.max_loaded:
            return False
        wanted = self._wanted(name, loaded)
        self._chosen = name, wanted
        if policy.memory_bytes is not None:
            taken = sum(one.memory_bytes for one in self._loaded(loaded))
            if taken + wanted.total_bytes > policy.memory_bytes:
                return False
        return wanted.plan.runs or policy.force

    def open(self, name: str) -> Resident:
        chosen, self._chosen = self._chosen, None
        wanted = chosen[1] if chosen and chosen[0] == name else self._wanted(name, ())
        self._check_memory(name, wanted.total_bytes)
        opened = open_model(
            self._model(name).path,
            wanted.options,
            require_gpu=self._policy.require_gpu,
            force=self._policy.force,
            target=wanted.target,
            context=wanted.context,
            advance=self._advance,
            exact=wanted.embeds and bool(wanted.target.gpus),
        )
        if wanted.embeds and not wanted.target.gpus:
            opened.plan = wanted.plan  # the same layout, with llama.cpp's own figures
        try:
            resident = self._resident(name, opened, wanted)
        except BaseException:
            opened.close()
            raise
        self._residents[name] = resident
        return resident

    def _model(self, name: str) -> Model:
        return self._asked(name).model

    def _asked(self, name: str) -> _Known:
        with self._lock:
            known = self._known.get(name)
        if known is None:
            raise ModelNotFound(f"no model {name!r} is known here")
        return known

    def _loaded(self, names: Sequence[str]) -> list[Resident]:
        found = (self._residents.get(name) for name in names)
        return [one for one in found if one is not None]

    def _check_memory(self, name: str, total_bytes: int) -> None:
        """One that alone is more than --memory never fits."""
        limit = self._policy.memory_bytes
        if limit is not None and total_bytes > limit and not self._policy.force:
            raise DoesNotFit(
                f"{self._model(name).name} needs {Bytes(total_bytes)}, "
                f"more than the {Bytes(limit)} of --memory",
                "a smaller --ctx, fewer --slots, or a smaller variant",
            )

    def _resident(self, name: str, opened: Opened, wanted: _Wanted) -> Resident:
        policy, longest = self._policy, self._longest(wanted.plan.n_ctx_train)
        n_ctx = wanted.plan.n_ctx
        if wanted.embeds:
            embedder = Embedder(opened.context, longest)
            resident = Resident(opened, None, longest, lambda: embedder)
            resident.embedder()
            return resident
        options = SchedulerOptions(max_waiting=policy.max_waiting, on_step=self._on_step)
        generator = SharedGenerator(opened.context, options=options)

        def make_embedder() -> Embedder:
            target = self._left(this_machine(), list(self._residents.keys()))
            return embedder_beside(opened, self._model(name), longest, target, self._allowed())

        return Resident(opened, generator, n_ctx, make_embedder, wanted.projector)

    def _allowed(self) -> int | None:
        """What --memory leaves, None where everything is allowed that there is."""
        if self._policy.memory_bytes is None:
            return None
        taken = sum(one.memory_bytes for one in list(self._residents.values()))
        return self._policy.memory_bytes - taken

    def _longest(self, n_ctx_train: int | None) -> int:
        """Tokens of a text to embed."""
        longest = self._policy.plan.n_ctx or EMBED_TOKENS
        return min(longest, n_ctx_train or longest)

    # --- planning --------------------------------------------------------------------------

    def _wanted(self, name: str, loaded: Sequence[str]) -> _Wanted:
        """Raises FileGone, DamagedFile, UsageProblem."""
        known, policy = self._asked(name), self._policy
        model = known.model
        header = read_model(model.path)
        hardware = look()
        target = self._left(this_machine(hardware), loaded)
        if header.arch_u32("pooling_type"):
            options, context = self._tuned(model, hardware, policy.plan)
            options = vector_options(options, self._longest(header.arch_u32("context_length")))
            plan = settled_plan(header, model.path, target, options, exact=True)
            return _Wanted(header, plan, options, context, target, True)
        projector, target = _projector(model, target)
        n_ctx = policy.plan.n_ctx or known.n_ctx
        chosen: tuple[PlanOptions, ContextOptions, Plan] | None = None
        for slots in (policy.slots,) if policy.slots else _SLOTS:
            options = replace(policy.plan, n_ctx=n_ctx, n_parallel=slots, kv_unified=True)
            options, context = self._tuned(model, hardware, options)
            context = replace(context, n_outputs_max=slots)
            plan = settled_plan(header, model.path, target, options)
            better = chosen is None or _better(plan, chosen[2])
            if better:
                chosen = options, context, plan
        assert chosen is not None
        options, context, plan = chosen
        return _Wanted(header, plan, options, context, target, False, projector)

    def _tuned(
        self, model: Model, hardware: Hardware, options: PlanOptions
    ) -> tuple[PlanOptions, ContextOptions]:
        """As `bench --auto` found best, but for what the user said."""
        context = ContextOptions(n_threads=self._policy.threads or 0)
        return tuned(model, hardware, options, context, self._policy.said) or (options, context)

    def _left(self, target: Target, loaded: Sequence[str]) -> Target:
        """The machine without the mapped weights of what is loaded: the system counts their
        pages as available, but to take them would slow every answer to the disk's pace. And
        without what was planned for images that nobody has sent yet."""
        residents = self._loaded(loaded)
        mapped = sum(one.opened.plan.host.mapped_bytes for one in residents)
        for one in residents:
            if (pending := one.pending) is None:
                continue
            need = pending.need
            mapped += need.image_bytes + (0 if pending.use_gpu else need.total_bytes)
            if pending.use_gpu and target.gpus:
                target = taking(target, {target.gpus[0].name: need.total_bytes}, 0)
        available = max(0, target.host_available_bytes - mapped)
        return replace(target, host_available_bytes=available)


def _projector(model: Model, target: Target) -> tuple[Projector | None, Target]:
    """The projector that a model came with, and the target without its room. One that cannot be
    read is left for the first image to complain of: the model answers texts without it."""
    files = model.with_role("mmproj")
    if not files:
        return None, target
    path = files[0].path
    try:
        need = projector_need(path)
    except LocalLLMError:
        return Projector(path, ProjectorNeed(0, 0), use_gpu=False), target
    target, use_gpu = beside_projector(target, need)
    return Projector(path, need, use_gpu), target


def _better(plan: Plan, than: Plan) -> bool:
    """Whether fewer slots are worth it: it fits only so, or more of it fits on the GPU."""
    return (plan.runs, plan.n_offloaded) > (than.runs, than.n_offloaded)
