"""The model in torch: built, begun, put on its optimizer, and written for llama.cpp."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from localllm.finetune.model import write_scratch, write_vocabulary
from localllm.finetune.scratch.descent import descent_of
from localllm.finetune.scratch.recipe import TrainRecipe
from localllm.finetune.scratch.shape import Shape

ROPE_BASE = 10_000.0
NORM_EPS = 1e-5
INIT = 0.02
RATES = {"muon": 4e-3, "adamw": 3e-3}


def config_of(shape: Shape) -> Any:
    """transformers' config of it. Token 0 begins and ends a text."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=shape.n_vocab,
        hidden_size=shape.width,
        intermediate_size=shape.ff,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        max_position_embeddings=shape.context,
        rms_norm_eps=NORM_EPS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
    )


def begin(shape: Shape, seed: int) -> Any:
    """A LlamaForCausalLM in float32, its weights drawn with `seed`.

    Deviation 0.02; of what is added to the residual stream less, by the root of how many are
    (Radford et al. 2019).
    """
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    made: Any = LlamaForCausalLM(config_of(shape))
    module: Any = made.float()
    generator = torch.Generator().manual_seed(seed)
    added = INIT / math.sqrt(2 * shape.layers)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                is_added = name.endswith(("o_proj.weight", "down_proj.weight"))
                parameter.normal_(0.0, added if is_added else INIT, generator=generator)
    return module


def named_of(module: Any) -> dict[str, torch.nn.Parameter]:
    """What learns: everything."""
    return dict(module.named_parameters())


def default_rate(recipe: TrainRecipe, shape: Shape) -> float:
    """The highest learning rate at a width of 256, less for wider models."""
    return RATES[recipe.optimizer] * math.sqrt(256 / max(256, shape.width))


def optimizer_of(
    module: Any, recipe: TrainRecipe, rate: float, dtype: torch.dtype
) -> torch.optim.Optimizer:
    """Muon, or AdamW with a second moment that forgets (0.95), as short runs want it; decay on
    matrices, not on norms."""
    named = named_of(module)
    if recipe.optimizer == "muon":
        return descent_of(named, lr=rate, weight_decay=recipe.weight_decay, dtype=dtype)
    groups = [
        {"params": [p for p in named.values() if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in named.values() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), eps=1e-8)


def write_model(
    module: Any, tokenizer: Path, out: Path, *, type: str, metadata: Mapping[str, str],
    template: str | None, advance: Callable[[int], None] = lambda n: None,
) -> None:  # fmt: skip
    """The GGUF, or nothing. Raises DiskFull, OSError, EngineError."""
    from localllm.errors import LocalLLMError
    from localllm.ui.oserrors import translate

    try:
        write_scratch(
            module, tokenizer, out, type=type, metadata=metadata,  # type: ignore[arg-type]
            chat_template=template, add_bos=True, advance=advance,
        )  # fmt: skip
    except OSError as error:
        out.unlink(missing_ok=True)
        found = translate(error)
        hint = "make room (localllm prune), then run the same command with --resume"
        raise found.__class__(found.message, hint) from None
    except LocalLLMError:
        out.unlink(missing_ok=True)
        raise


def write_words(shape: Shape, tokenizer: Path, out: Path, template: str | None) -> None:
    """The vocabulary alone, for llama.cpp to tokenize with."""
    write_vocabulary(config_of(shape), tokenizer, out, add_bos=True, chat_template=template)
