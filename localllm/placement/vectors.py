"""What making vectors takes: a context whose batch is as long as the longest text.

    options = vector_options(PlanOptions(), n_tokens_max=2048, pooling="mean")
    plan = settled_plan(header, path, target, options, exact=True)   # of a model for that alone
    need = beside_model(plan)                                        # of a context beside another

The buffers come from llama.cpp's dry run wherever it can be asked. Arithmetic knows only contexts
that generate, whose output is logits: for a model of text it then counts too much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from localllm.engine.embed import embedding_options
from localllm.engine.options import Pooling
from localllm.placement.options import PlanOptions
from localllm.placement.plan import Plan

# Texts of one batch. Its limit is in tokens all the same.
TEXTS_AT_ONCE = 16


@dataclass(frozen=True)
class ContextNeed:
    """Bytes of a context without the weights. `exact`: llama.cpp's own figures."""

    gpu_bytes: dict[str, int]  # by the GPU's name
    host_bytes: int
    exact: bool

    @property
    def total_bytes(self) -> int:
        return self.host_bytes + sum(self.gpu_bytes.values())


def vector_options(
    plan: PlanOptions, n_tokens_max: int, pooling: Pooling = "unspecified"
) -> PlanOptions:
    """`plan` for texts of up to `n_tokens_max` tokens; see engine.embed.embedding_options."""
    made = embedding_options(n_tokens_max, n_seq_max=TEXTS_AT_ONCE, pooling=pooling)
    return replace(
        plan,
        n_ctx=made.n_ctx // made.n_seq_max,
        n_parallel=made.n_seq_max,
        n_batch=made.n_batch,
        n_ubatch=made.n_ubatch,
        type_k=made.type_k,
        type_v=made.type_v,
        kv_unified=made.kv_unified,
        embeddings=True,
        pooling=made.pooling,
    )


def beside_model(plan: Plan) -> ContextNeed:
    """What the context of `plan` takes where the weights are loaded already."""
    host = plan.host
    return ContextNeed(
        gpu_bytes={d.name: d.kv_bytes + d.state_bytes + d.compute_bytes for d in plan.devices},
        host_bytes=host.kv_bytes + host.state_bytes + host.compute_bytes + host.logits_bytes,
        exact=plan.basis == "llama.cpp" and plan.cache_exact,
    )
