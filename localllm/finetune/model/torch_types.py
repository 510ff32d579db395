"""Which of ggml's types torch can make numbers of (`dequantize`). Without torch: the plan of a
run needs to know too."""

from __future__ import annotations

TYPES = frozenset({
    "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k",
    "q6_k", "iq4_nl", "iq4_xs",
})  # fmt: skip


def by_torch(type_name: str) -> bool:
    """Whether bytes of this type (as ggml spells it, in any case) can stay on a GPU."""
    return type_name.lower() in TYPES
