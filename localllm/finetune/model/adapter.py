"""LoRA pairs and llama.cpp's adapter GGUF, both ways.

The file is what `convert_lora_to_gguf.py` writes: `<tensor>.lora_a` (r, in) and
`<tensor>.lora_b` (out, r), B's rows paired where the weight's are; of the token embedding A is
written transposed (`llm_graph_context::build_inp_embd`). llama.cpp's scale is alpha / r for
every pair, so what deviates (rsLoRA, other ranks' alphas) goes into alpha or B.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from localllm.errors import DamagedFile, UsageProblem
from localllm.finetune.model.loaded import LoadedModel
from localllm.finetune.model.stored import Stored, gguf_weights
from localllm.formats import read_model
from localllm.formats.hf import Slot
from localllm.formats.hf.write import TensorOut, Value, fresh_header, tensor_type, write_gguf

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32] | torch.Tensor

ALPHA = "adapter.lora.alpha"
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


@dataclass(frozen=True, eq=False)
class LoraPair:
    """What is added to a weight: `scale * b @ a`, a (r, in), b (out, r).

    `scale` None is alpha / r. `magnitude` (out) is DoRA's: the weight's rows are brought to
    these lengths afterwards. Of an embedding `a` is (r, vocabulary) and `b` (width, r), as
    peft's `lora_embedding_A` and `_B`.
    """

    a: Matrix
    b: Matrix
    scale: float | None = None
    magnitude: Matrix | None = None

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """A read adapter: pairs by the module's path in transformers, float32 numpy."""

    pairs: Mapping[str, LoraPair]
    alpha: float


def adapter_gguf(
    lora: Mapping[str, LoraPair],
    alpha: float,
    loaded: LoadedModel,
    out: Path,
    metadata: Mapping[str, Value] | None = None,
    *,
    rslora: bool = False,
    dtype: Literal["f32", "f16"] = "f32",
) -> None:
    """Write pairs, keyed by module paths ("model.layers.0.self_attn.q_proj"), as an adapter.

    A scale a pair does not name is alpha / r, or alpha / sqrt(r) with `rslora`. `metadata`
    is added to the keys that llama.cpp wants. Raises UsageProblem for what an adapter of
    llama.cpp cannot hold: DoRA, and the embedding or output of a model where they are one;
    OSError.
    """
    slots = {slot.module: slot for slot in loaded.slots if slot.hf.endswith(".weight")}
    wanted = {path: _matrices(path, pair, slots, loaded) for path, pair in lora.items()}
    if not wanted or alpha <= 0:  # llama.cpp takes an alpha of 0 for a scale of 1
        what = f"a LoRA's alpha is a number above 0, not {alpha}"
        raise UsageProblem(what if wanted else "there is no LoRA pair to write")
    scales = {path: effective_scale(pair, alpha, rslora) for path, pair in lora.items()}
    file_alpha = _common_alpha([scales[path] * pair.rank for path, pair in lora.items()], alpha)
    tensors: list[TensorOut] = []
    order = {slot.module: i for i, slot in enumerate(loaded.slots)}
    for path in sorted(wanted, key=lambda one: order[one]):
        a, b = wanted[path]
        factor = scales[path] * a.shape[0] / file_alpha
        if not math.isclose(factor, 1.0, rel_tol=1e-9):
            b = b * factor
        tensors += _tensors(slots[path], a, b, dtype)
    keys = {
        "general.architecture": loaded.arch,
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.file_type": 1 if dtype == "f16" else 0,
        ALPHA: float(file_alpha),
    }
    write_gguf(out, fresh_header(out.name, {**keys, **(metadata or {})}), tensors)


def _common_alpha(alphas: Sequence[float], default: float) -> float:
    """One alpha for the file: the pairs' own where they agree."""
    agree = min(alphas) > 0 and math.isclose(min(alphas), max(alphas), rel_tol=1e-9)
    return alphas[0] if agree else float(default)


def effective_scale(pair: LoraPair, alpha: float, rslora: bool) -> float:
    """What b @ a is multiplied with."""
    if pair.scale is not None:
        return float(pair.scale)
    return float(alpha) / (math.sqrt(pair.rank) if rslora else pair.rank)


def read_adapter(path: Path, loaded: LoadedModel) -> AdapterFile:
    """An adapter GGUF back into pairs, to train on from it. Its scale is alpha / r.

    Raises FileGone, DamagedFile, and UsageProblem for an adapter of another model.
    """
    file = read_model(path)
    if file.kind != "adapter":
        raise UsageProblem(f"{path.name} is no adapter")
    if file.architecture != loaded.arch:
        raise UsageProblem(
            f"{path.name} is for a {file.architecture}, and this model is a {loaded.arch}"
        )
    weights, slots = gguf_weights(file, path), {slot.gguf: slot for slot in loaded.slots}
    pairs = {}
    for name in weights:
        if not name.endswith(".lora_a"):
            continue
        base = name.removesuffix(".lora_a")
        slot, b = slots.get(base), weights.get(f"{base}.lora_b")
        if b is None:
            raise DamagedFile(f"{path.name}: it has no tensor {base}.lora_b")
        pair = None if slot is None else _read_pair(slot, weights[name], b)
        if slot is None or pair is None:
            raise UsageProblem(f"{path.name}: its {base} does not fit this model")
        pairs[slot.module] = pair
    if not pairs:
        raise DamagedFile(f"{path.name}: it holds no LoRA pair")
    alpha = file.f32(ALPHA, 0.0)
    if not alpha:  # a scale of 1 then, whatever the rank
        pairs = {module: replace(pair, scale=1.0) for module, pair in pairs.items()}
    return AdapterFile(pairs, alpha or float(next(iter(pairs.values())).rank))


def _read_pair(slot: Slot, stored_a: Stored, stored_b: Stored) -> LoraPair | None:
    a, b = stored_a.numbers(), stored_b.numbers()
    if slot.gguf == EMBEDDING:
        a = a.T
        fits = (b.shape[0], a.shape[1]) == (slot.shape[1], slot.shape[0])
    else:
        fits = (b.shape[0], a.shape[1]) == slot.shape
    if not fits or a.shape[0] != b.shape[1]:
        return None
    order = slot.layout.row_order(b.shape[0])
    return LoraPair(a, b if order is None else b[order])


def _matrices(
    path: str, pair: LoraPair, slots: Mapping[str, Slot], loaded: LoadedModel
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A pair in float32, checked against the weight that it is for."""
    slot = slots.get(path)
    if slot is None and not (loaded.tied and path == "lm_head"):
        raise UsageProblem(f"{path} is no weight of a {loaded.arch}")
    if slot is None or (loaded.tied and slot.gguf == EMBEDDING):
        raise UsageProblem(
            f"an adapter of llama.cpp cannot hold {path}: this model's output is its embedding",
            "leave it out, or merge it into the weights (--merge)",
        )
    if pair.magnitude is not None:
        raise UsageProblem(
            "an adapter of llama.cpp cannot hold DoRA, which scales the base's own rows",
            "merge it into the weights (--merge), or train with LoRA",
        )
    a, b = float32(pair.a), float32(pair.b)
    n_out, n_in = reversed(slot.shape) if slot.gguf == EMBEDDING else slot.shape
    if a.ndim != 2 or b.ndim != 2 or (b.shape[0], a.shape[1]) != (n_out, n_in):
        raise UsageProblem(
            f"the LoRA of {path} is {b.shape} by {a.shape}, not for ({n_out}, {n_in})"
        )
    if a.shape[0] != b.shape[1]:
        raise UsageProblem(f"the LoRA of {path} has the ranks {b.shape[1]} and {a.shape[0]}")
    return a, b


def float32(matrix: Any) -> NDArray[np.float32]:
    """A torch tensor or numpy array as float32 numpy."""
    import numpy as np

    if hasattr(matrix, "detach"):
        matrix = matrix.detach().to(device="cpu").float().numpy()
    return np.ascontiguousarray(matrix, dtype=np.float32)


def _tensors(
    slot: Slot, a: NDArray[np.float32], b: NDArray[np.float32], dtype: str
) -> Iterator[TensorOut]:
    import numpy as np

    order = slot.layout.inverse_order(b.shape[0])
    if order is not None:
        b = b[order]
    if slot.gguf == EMBEDDING:
        a = a.T
    for name, matrix in ((f"{slot.gguf}.lora_a", a), (f"{slot.gguf}.lora_b", b)):
        held = np.ascontiguousarray(matrix, dtype=np.float16 if dtype == "f16" else np.float32)
        yield TensorOut(name, held.shape, tensor_type(dtype), partial(_whole, held))


def _whole(matrix: NDArray[Any]) -> list[NDArray[Any]]:
    return [matrix]
