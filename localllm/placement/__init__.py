"""Which layers and caches go to which device, what a model needs, and opening it by that plan.

Combines the GGUF header (formats), devices and layout arithmetic (hardware) and llama.cpp's
own reservation (engine).

    plan = plan_for(read_model(path), this_machine(), PlanOptions(n_ctx=8192))
    with machine_for(model, path) as machine:              # compute buffers from llama.cpp
        plan = plan_for(model, this_machine(), PlanOptions(), machine)
    with open_model(path) as opened: ...
"""

from localllm.placement.drafting import OpenedPair, PairPlan, open_with_draft, plan_with_draft
from localllm.placement.here import this_machine, with_bandwidth
from localllm.placement.measure import machine_for
from localllm.placement.opening import (
    Advice,
    Opened,
    Placed,
    does_not_fit,
    open_model,
    settled_plan,
    unused_advice,
)
from localllm.placement.options import DEFAULT_N_CTX, PlanOptions
from localllm.placement.plan import DeviceNeed, HostNeed, Plan, Verdict
from localllm.placement.planner import Machine, plan_for
from localllm.placement.projector import ProjectorNeed, beside_projector, projector_need
from localllm.placement.shape import LayerShape, ModelShape, model_shape
from localllm.placement.target import Target, TargetGpu, target_here, target_on_paper
from localllm.placement.vectors import ContextNeed, beside_model, vector_options

__all__ = [
    "DEFAULT_N_CTX",
    "Advice",
    "ContextNeed",
    "DeviceNeed",
    "HostNeed",
    "LayerShape",
    "Machine",
    "ModelShape",
    "Opened",
    "OpenedPair",
    "PairPlan",
    "Placed",
    "Plan",
    "PlanOptions",
    "ProjectorNeed",
    "Target",
    "TargetGpu",
    "Verdict",
    "beside_model",
    "beside_projector",
    "does_not_fit",
    "machine_for",
    "model_shape",
    "open_model",
    "open_with_draft",
    "plan_for",
    "plan_with_draft",
    "projector_need",
    "settled_plan",
    "target_here",
    "target_on_paper",
    "this_machine",
    "unused_advice",
    "vector_options",
    "with_bandwidth",
]
