"""A GGUF's header checked against its family: every tensor has its place, and none is missing.

Nothing but the header is read (and the factors of a rope), so a model that cannot be trained
is refused before torch is imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localllm.errors import DamagedFile, EngineError, UsageProblem
from localllm.formats.gguf import GGUFView
from localllm.formats.hf import configs
from localllm.formats.hf.families import Family, Part, family_of_arch
from localllm.formats.hf.layout import PLAIN, Layout
from localllm.formats.hf.rope import frequency_divisor, rope_parameters
from localllm.formats.hf.sizes import Sizes, sizes_of_gguf
from localllm.formats.prefix import DAMAGED_HINT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from localllm.formats.hf.rope import Read

Has = Callable[[str, str], bool]  # GGUF name, transformers' name: is that tensor there?
BY_LAYER_TYPE = ("gemma3_text", "olmo3")  # configs whose rope parameters are told by layer type


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor in both worlds: its names, its shape in torch's order, how its numbers lie."""

    gguf: str
    hf: str
    shape: tuple[int, ...]
    layout: Layout

    @property
    def module(self) -> str:
        """transformers' module that has it: `model.layers.0.self_attn.q_proj`."""
        return self.hf.rpartition(".")[0]


@dataclass(frozen=True)
class Plan:
    """What a GGUF becomes in transformers. `config` are the values of its config,
    `divisor` what each frequency of its rope is divided by (n_rot / 2; None: nothing)."""

    family: Family
    class_name: str
    model_type: str
    sizes: Sizes
    slots: tuple[Slot, ...]
    config: Mapping[str, Any]
    divisor: NDArray[np.float32] | None


def plan_gguf(view: GGUFView, read: Read) -> Plan:
    """The plan of a GGUF. `read` gives a small tensor's numbers by its name.

    Raises UsageProblem for a file that is no model to train, EngineError for a family or
    feature that is not supported, DamagedFile for missing tensors and wrong shapes.
    """
    _check_kind(view)
    family = family_of_arch(view.architecture or "", view.name)
    _check_features(view)
    sizes = sizes_of_gguf(view)
    if sizes.n_rot != sizes.head_dim and not family.partial_rope:
        what = f"rope on {sizes.n_rot} of {sizes.head_dim} numbers of a head"
        raise EngineError(f"{view.name}: {what} is not supported")
    if family.heads_fill and sizes.n_head * sizes.head_dim != sizes.n_embd:
        what = f"{sizes.n_head} heads of {sizes.head_dim} in a width of {sizes.n_embd}"
        raise EngineError(f"{view.name}: {what} are not supported")
    tied = "output.weight" not in view.tensors
    if family.tied is not None and tied != family.tied:
        what = "no output tensor" if tied else "an output tensor of its own"
        raise EngineError(f"{view.name}: a {family.arch} with {what} is not supported")
    slots = slots_of(family, sizes, lambda gguf, _: gguf in view.tensors, tied=tied)
    _check_tensors(view, slots, family)
    config = _config(view, family, sizes, read, tied, {slot.gguf for slot in slots})
    model_type = str(config["model_type"])
    return Plan(
        family=family,
        class_name=(family.also or {}).get(model_type, family.class_name),
        model_type=model_type,
        sizes=sizes,
        slots=slots,
        config=config,
        divisor=frequency_divisor(view, sizes, read),
    )


def slots_of(family: Family, sizes: Sizes, has: Has, *, tied: bool) -> tuple[Slot, ...]:
    """All tensors of a model of this family and these sizes. Biases behind a switch are those
    that are there (`has`); a part behind a switch without one is left out."""
    named = sizes.named()
    slots: list[Slot] = []
    for part in family.top:
        if not (tied and part.gguf == "output"):
            slots += _part_slots(part, "", "", sizes, named, has)
    for i in range(sizes.n_layer):
        for part in family.block:
            slots += _part_slots(part, f"blk.{i}.", f"model.layers.{i}.", sizes, named, has)
    return tuple(slots)


def _part_slots(
    part: Part, gguf: str, hf: str, sizes: Sizes, named: Mapping[str, int], has: Has
) -> Iterable[Slot]:
    shape = tuple(named[size] for size in part.shape)
    heads = {"q": sizes.n_head, "kv": sizes.n_head_kv, "": 0}[part.rope]
    layout = Layout(heads, part.shift) if heads or part.shift else PLAIN
    gguf, hf = gguf + part.gguf, hf + part.hf
    yield Slot(f"{gguf}.weight", f"{hf}.weight", shape, layout)
    names = f"{gguf}.bias", f"{hf}.bias"
    if part.bias == "yes" or (part.bias and has(*names)):
        # a shift is of Gemma's norms, which have no bias
        yield Slot(*names, shape[:1], Layout(heads) if heads else PLAIN)


def _check_kind(view: GGUFView) -> None:
    if view.kind == "adapter":
        raise UsageProblem(f"{view.name} is an adapter, not a model", "name the model it is for")
    if view.kind != "model":
        raise UsageProblem(f"{view.name} is a {view.kind} file and no model that can be trained")
    if any(getattr(shard, "big_endian", False) for shard in getattr(view, "shards", (view,))):
        raise EngineError(f"{view.name}: big-endian files cannot be trained")
    # what makes an embedding or ranking model of one that could also write
    pooled = view.u32(f"{view.architecture}.pooling_type", 0)
    causal = view.flag(f"{view.architecture}.attention.causal", True)
    if pooled or causal is False:
        raise UsageProblem(f"{view.name} is an embedding model: it writes no text to train on")


def _check_features(view: GGUFView) -> None:
    if view.arch_u32("expert_count", 0):
        raise EngineError(f"{view.name}: mixtures of experts cannot be trained yet")
    if view.arch_u32("nextn_predict_layers", 0):
        raise EngineError(f"{view.name}: layers that predict several tokens cannot be trained yet")


def _check_tensors(view: GGUFView, slots: tuple[Slot, ...], family: Family) -> None:
    for slot in slots:
        tensor = view.tensors.get(slot.gguf)
        if tensor is None:
            raise DamagedFile(f"{view.name}: it has no tensor {slot.gguf}", DAMAGED_HINT)
        if tensor.shape != tuple(reversed(slot.shape)):
            raise DamagedFile(
                f"{view.name}: {slot.gguf} has the shape {tensor.shape} and should have "
                f"{tuple(reversed(slot.shape))}",
                DAMAGED_HINT,
            )
    strange = view.tensors.keys() - {slot.gguf for slot in slots} - set(family.rope_tensors)
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise EngineError(
            f"{view.name}: {min(strange)!r}{more} has no place in transformers' {family.class_name}"
        )


def _config(
    view: GGUFView, family: Family, sizes: Sizes, read: Read, tied: bool, names: set[str]
) -> dict[str, Any]:
    values = {"model_type": family.model_type, **configs.common(view, sizes, tied=tied)}
    for switch in family.switches:
        parts = [part for part in family.block if part.bias == switch]
        there = [
            f"blk.{i}.{part.gguf}.bias" in names for i in range(sizes.n_layer) for part in parts
        ]
        if any(there) and not all(there):
            raise EngineError(
                f"{view.name}: biases on some of its {switch.removesuffix('_bias')} tensors only"
            )
        values[switch] = all(there)
    values |= family.configure(view, sizes)
    more = values.pop("rope_parameters", {})
    rope = _rope(view, family, sizes, read, str(values["model_type"]))
    return values | {"rope_parameters": rope | more}


def _rope(
    view: GGUFView, family: Family, sizes: Sizes, read: Read, model_type: str
) -> dict[str, Any]:
    rope = rope_parameters(view, sizes, read)
    if family.partial_rope:
        rope["partial_rotary_factor"] = _fraction(sizes.n_rot, sizes.head_dim)
    if model_type not in BY_LAYER_TYPE:
        return rope
    local = 10000.0 if model_type == "gemma3_text" else rope["rope_theta"]
    base = view.f32(view.arch_key("rope.freq_base_swa"), local)
    return {
        configs.FULL: rope,
        configs.SLIDING: {"rope_type": "default", "rope_theta": base},
    }


def _fraction(part: int, whole: int) -> float:
    """A number that `int(whole * number)`, as transformers reckons, makes `part` of again."""
    found = part / whole
    return found if int(whole * found) == part else math.nextafter(found, math.inf)
