"""Rotary position embeddings: llama.cpp's keys and tensors as transformers' parameters.

Sources: `llama_model_base::load_hparams` and `llama_context` (llama.cpp),
`modeling_rope_utils.py` (transformers).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from localllm.errors import DamagedFile, EngineError
from localllm.formats.gguf import GGUFView
from localllm.formats.hf.sizes import Sizes
from localllm.formats.prefix import DAMAGED_HINT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Read = Callable[[str], NDArray[np.float32]]  # a small tensor of the file, by its name

FREQS = "rope_freqs.weight"  # what each frequency is divided by: Llama 3.1's scaling, worked out
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
DEFAULT_BASE = 10000.0


def rope_parameters(view: GGUFView, sizes: Sizes, read: Read) -> dict[str, Any]:
    """`rope_parameters` of a transformers config, without what `rope_freqs` adds.

    Raises EngineError for a scaling that transformers does not compute as llama.cpp does.
    """
    found: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": view.f32(view.arch_key("rope.freq_base"), DEFAULT_BASE),
    }
    kind = view.text(view.arch_key("rope.scaling.type"), "linear")
    # 0 stands for none, as in llama.cpp
    factor = view.f32(view.arch_key("rope.scaling.factor")) or view.f32(
        view.arch_key("rope.scale_linear")
    )
    attention = view.f32(view.arch_key("rope.scaling.attn_factor"), 1.0)
    original = view.arch_u32("rope.scaling.original_context_length", sizes.n_ctx_train)
    _check(view, found["rope_theta"], factor or 1.0, original)
    scaled = factor is not None and factor not in (0.0, 1.0)
    if SHORT in view.tensors or LONG in view.tensors:
        return found | _longrope(view, read, original, attention)
    if kind == "yarn" and scaled:
        assert factor is not None
        found |= {"rope_type": "yarn", "factor": factor}
        found["original_max_position_embeddings"] = original
        if attention != 1.0:
            found["attention_factor"] = attention * (0.1 * math.log(max(factor, 1.0)) + 1.0)
        return found
    if kind not in ("linear", "none", "yarn") or attention != 1.0:
        raise EngineError(f"{view.name}: position scaling {kind!r} is not supported in training")
    if kind == "linear" and scaled:
        found |= {"rope_type": "linear", "factor": factor}
    return found


def _check(view: GGUFView, base: float, factor: float, original: int) -> None:
    """Numbers that neither program could compute with."""
    sound = 1.0 < base < math.inf and 0.0 < factor < math.inf and original > 0
    if not sound:
        what = f"rope of base {base}, scaled by {factor}, for {original} positions"
        raise DamagedFile(f"{view.name}: it makes no sense: {what}", DAMAGED_HINT)


def _longrope(view: GGUFView, read: Read, original: int, attention: float) -> dict[str, Any]:
    """Phi-3's two sets of factors. llama.cpp takes the long ones when the context is made
    larger than the original one, transformers when a text is longer than that."""
    missing = [name for name in (SHORT, LONG) if name not in view.tensors]
    if missing:
        raise DamagedFile(f"{view.name}: it has no tensor {missing[0]}", DAMAGED_HINT)
    return {
        "rope_type": "longrope",
        "short_factor": [float(one) for one in read(SHORT)],
        "long_factor": [float(one) for one in read(LONG)],
        "original_max_position_embeddings": original,
        "attention_factor": attention,
    }


def frequency_divisor(view: GGUFView, sizes: Sizes, read: Read) -> NDArray[np.float32] | None:
    """What `inv_freq` is divided by, (n_rot / 2); None where the file does not say."""
    if FREQS not in view.tensors:
        return None
    found = read(FREQS)
    if found.shape != (sizes.n_rot // 2,):
        raise DamagedFile(f"{view.name}: {FREQS} is not of shape ({sizes.n_rot // 2},)")
    return found
