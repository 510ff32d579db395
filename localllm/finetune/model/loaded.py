"""A model of the registry as a module of transformers: straight from its file, in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from localllm.errors import DamagedFile, EngineError, FileGone, MissingExtra, UsageProblem
from localllm.finetune.model.stored import Weights, gguf_weights, safetensors_weights
from localllm.formats import read_model, read_safetensors_folder
from localllm.formats.hf import (
    FAMILIES,
    Family,
    Plan,
    Sizes,
    Slot,
    family_of_model_type,
    plan_gguf,
    sizes_of_config,
    slots_of,
)
from localllm.formats.safetensors import SafetensorsModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Frozen = Literal["dense", "quantized", "nf4"]
Trainable = Literal["none", "all"]
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A module and where it is from.

    `arch` is llama.cpp's name for it; `slots` say of each parameter which tensor of a GGUF it
    is; `weights` are the tensors of `source` as they were (mapped, not read).
    """

    module: PreTrainedModel
    arch: str
    config: PretrainedConfig
    family: Family
    source: Path
    sizes: Sizes
    slots: tuple[Slot, ...]
    weights: Weights
    frozen: Frozen

    @property
    def tied(self) -> bool:
        """Whether the output layer is the token embedding."""
        return all(slot.hf != "lm_head.weight" for slot in self.slots)

    @property
    def from_gguf(self) -> bool:
        return not self.source.is_dir()


def families() -> tuple[str, ...]:
    """llama.cpp's names of the architectures that can be loaded."""
    return tuple(family.arch for family in FAMILIES)


def check_source(path: Path) -> str:
    """The architecture (llama.cpp's name) of what `load_causal` would load, from headers only.

    Milliseconds, without torch: what cannot be loaded is refused here. Raises as `load_causal`.
    """
    if path.is_dir():
        return _folder_family(read_safetensors_folder(path)).arch
    model = read_model(path)
    return plan_gguf(model, gguf_weights(model, path).read).family.arch


def load_causal(
    path: Path,
    *,
    dtype: str = "float32",
    frozen: Frozen = "dense",
    trainable: Trainable = "none",
    empty: bool = False,
    device: str = "cpu",
    matrices: str | None = None,
) -> LoadedModel:
    """The model in a GGUF (any shard of a split one) or a folder of safetensors.

    `dtype` is what is computed in: "float32", "bfloat16" or "float16". `frozen="quantized"`
    keeps matrices that take fewer bytes in the file than in `dtype` in the file's own bytes
    (see `quantized`): memory follows the file's size; "nf4" those of the layers in bitsandbytes'
    4 bits (see `nf4`), the others as numbers. `device` is where the module is to compute, as torch
    spells it; on one that is not the CPU bytes are kept of the types in `torch_types`, and other
    types are numbers. `matrices` is a narrower type for the matrices of the layers where those are
    numbers: what autocast would make of them at each product. `trainable` tells which parameters
    want gradients. `empty` leaves all parameters of a GGUF's model on the meta device, to be parted
    among processes (`training.sharding`). Everything that can be refused is refused from the
    header, before torch is imported. The module is in evaluation mode, with the attention that
    computes it rightly (soft caps need transformers' own, "eager").

    Raises FileGone, DamagedFile, UsageProblem (no model, or options that do not go together),
    EngineError (a family or feature that is not supported), MissingExtra.
    """
    if dtype not in DTYPES:
        raise UsageProblem(f"{dtype!r} is no type to compute in", f"one of {', '.join(DTYPES)}")
    if trainable == "all" and frozen != "dense":
        raise UsageProblem("quantized weights cannot be trained", "load them as numbers (dense)")
    if frozen == "nf4":
        require_nf4()
        if empty:
            raise UsageProblem("weights in NF4 cannot be parted", "keep the file's bytes, or dense")
    if path.is_dir():
        if empty:
            raise UsageProblem(f"{path.name} is no GGUF: it cannot be parted", "localllm convert")
        return _from_folder(path, dtype, frozen, trainable, device)
    if not path.exists() and path.suffix != ".gguf":
        raise FileGone(f"{path} does not exist")
    model = read_model(path)
    weights = gguf_weights(model, path)
    plan = plan_gguf(model, weights.read)
    build = _builder()
    module = build.build(
        plan.model_type, plan.config, plan.slots, weights,
        build.Way(dtype, frozen, eager(plan), empty=empty, device=build.torch.device(device),
                  matrices=matrices),
        divisor=plan.divisor,
    )  # fmt: skip
    return _loaded(module, plan.family, path, plan.sizes, plan.slots, weights, frozen,
                   trainable)  # fmt: skip


def eager(plan: Plan) -> bool:
    """Whether only transformers' own attention computes this model."""
    return plan.family.eager


def require_nf4() -> None:
    """Raise MissingExtra where bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        raise MissingExtra("NF4 needs bitsandbytes", "pip install 'localllm[nf4]'")


def _from_folder(
    path: Path, dtype: str, frozen: Frozen, trainable: Trainable, device: str
) -> LoadedModel:
    found = read_safetensors_folder(path)
    family = _folder_family(found)
    weights = safetensors_weights(found)
    build = _builder()
    config = build.config_of(str(found.model_type), _plain_config(found), path.name)
    try:
        sizes = sizes_of_config(config.to_dict())
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(f"{path.name}: config.json lacks {error}") from None
    tied = bool(config.tie_word_embeddings) and "lm_head.weight" not in weights
    slots = slots_of(family, sizes, lambda _, hf: hf in weights, tied=tied)
    for slot in slots:
        stored = weights.get(slot.hf)
        if stored is None:
            raise DamagedFile(f"{path.name}: it has no tensor {slot.hf}")
        if stored.shape != slot.shape:
            raise DamagedFile(
                f"{path.name}: {slot.hf} has the shape {stored.shape} and should have {slot.shape}"
            )
    module = build.build(
        str(found.model_type), config, slots, weights,
        build.Way(dtype, frozen, family.eager, hf_names=True, device=build.torch.device(device)),
    )  # fmt: skip
    return _loaded(module, family, path, sizes, slots, weights, frozen, trainable)


def _folder_family(found: SafetensorsModel) -> Family:
    name = found.folder.name
    if found.kind == "adapter":
        raise UsageProblem(f"{name} is an adapter, not a model", "name the model it is for")
    if found.model_type is None:
        raise DamagedFile(f"{name}: config.json says no model_type")
    family = family_of_model_type(found.model_type, name)
    causal = {family.class_name, *(family.also or {}).values()}
    if found.architecture is not None and found.architecture not in causal:
        raise UsageProblem(f"{name} is a {found.architecture}, which writes no text to train on")
    return family


def _plain_config(found: SafetensorsModel) -> dict[str, Any]:
    ours = ("model_type", "quantization_config", "auto_map")
    if "quantization_config" in found.config:
        raise EngineError(f"{found.folder.name}: its weights are quantized in a way of their own")
    return {key: value for key, value in found.config.items() if key not in ours}


def _loaded(
    module: PreTrainedModel,
    family: Family,
    source: Path,
    sizes: Sizes,
    slots: tuple[Slot, ...],
    weights: Weights,
    frozen: Frozen,
    trainable: Trainable,
) -> LoadedModel:
    module.requires_grad_(trainable == "all")
    module.train(False)
    return LoadedModel(
        module=module,
        arch=family.arch,
        config=module.config,
        family=family,
        source=source,
        sizes=sizes,
        slots=slots,
        weights=weights,
        frozen=frozen,
    )


def _builder() -> Any:
    """The part that imports torch. Raises MissingExtra."""
    try:
        from localllm.finetune.model import build
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"training needs {error.name}", "pip install 'localllm[finetune]'"
        ) from None
    return build
