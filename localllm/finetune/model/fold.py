"""LoRA and DoRA put into a loaded model's own weights.

DoRA (arXiv 2402.09353) brings every row of the base's weight to a length of its own: W' = m *
(W + s B A) / |W + s B A|. The difference from W is of full rank, so no LoRA pair and no adapter
of llama.cpp holds it; the folded weights do, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from localllm.errors import UsageProblem
from localllm.finetune.model.adapter import LoraPair, effective_scale, float32
from localllm.finetune.model.build import bare
from localllm.finetune.model.loaded import LoadedModel
from localllm.finetune.model.quantized import QuantizedEmbedding, QuantizedLinear


def fold_lora(
    loaded: LoadedModel, lora: Mapping[str, LoraPair], alpha: float, *, rslora: bool = False
) -> None:
    """Change the weights of `loaded.module` to what they are with the pairs, LoRA and DoRA.

    A layer in its file's bytes becomes a dense one. Computed in float32, then rounded to the
    module's type. Where output and embedding are one, either name changes both. For
    `save_gguf` next. Raises UsageProblem for a path that is no weight, or pairs that do not fit.
    """
    for path, pair in lora.items():
        layer = _layer(loaded, path)
        embedding = isinstance(layer, nn.Embedding)
        folded = folded_weight(
            layer.weight.detach().float(), pair, effective_scale(pair, alpha, rslora), path,
            embedding=embedding,
        )  # fmt: skip
        if isinstance(layer, QuantizedLinear | QuantizedEmbedding):
            dtype = next((p.dtype for p in loaded.module.parameters()), torch.float32)
            _densify(loaded, path, layer, folded.to(dtype))
        else:
            with torch.no_grad():
                layer.weight.copy_(folded.to(layer.weight.dtype))


def folded_weight(
    weight: torch.Tensor, pair: LoraPair, scale: float, path: str, *, embedding: bool = False
) -> torch.Tensor:
    """The weight (out, in) with the pair in it, float32. Raises UsageProblem."""
    a, b = torch.from_numpy(float32(pair.a)), torch.from_numpy(float32(pair.b))
    if a.shape[0] != b.shape[1]:
        raise UsageProblem(f"the LoRA of {path} has the ranks {b.shape[1]} and {a.shape[0]}")
    delta = scale * (b @ a)
    delta = delta.T if embedding else delta
    if delta.shape != weight.shape:
        raise UsageProblem(
            f"the LoRA of {path} is for {tuple(delta.shape)}, not for {tuple(weight.shape)}"
        )
    changed = weight.cpu() + delta
    if pair.magnitude is None:
        return changed
    lengths = torch.from_numpy(float32(pair.magnitude)).reshape(-1)
    scaled: torch.Tensor = changed * (lengths / changed.norm(dim=1)).unsqueeze(1)
    return scaled


def _layer(loaded: LoadedModel, path: str) -> nn.Linear | nn.Embedding:
    try:
        layer = bare(loaded.module.get_submodule(path))
    except AttributeError:
        raise UsageProblem(f"{path} is no weight of a {loaded.arch}") from None
    if not isinstance(layer, nn.Linear | nn.Embedding):
        raise UsageProblem(f"{path} is no weight of a {loaded.arch} that an adapter is for")
    return layer


def _densify(
    loaded: LoadedModel, path: str, layer: nn.Linear | nn.Embedding, weight: torch.Tensor
) -> None:
    new: nn.Module
    if isinstance(layer, nn.Linear):
        new = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        new.bias = layer.bias
        new.weight = nn.Parameter(weight, requires_grad=False)
    else:
        raise UsageProblem(
            "an embedding in its file's bytes cannot take an adapter", "load it as numbers (dense)"
        )
    parent, _, name = path.rpartition(".")
    owner = loaded.module.get_submodule(parent)
    held = owner.get_submodule(name)
    if held is layer:
        setattr(owner, name, new)
        return
    for inner in ("base_layer", "base"):  # an adapter's layer holds it
        if held._modules.get(inner) is layer:
            setattr(held, inner, new)
