"""How a run is laid out on this machine, and what memory it takes, before anything is loaded.

The sums are of what is held at the highest point: frozen weights, what learns with its gradient
and its two moments, what a pack leaves for its backward pass, the loss's buffer. Activations
are counted tensor by tensor as transformers' layers make them; a trial corrects them (see
`trial`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from localllm.errors import DoesNotFit
from localllm.finetune.model.torch_types import by_torch
from localllm.finetune.recipe import Recipe
from localllm.finetune.training.targets import meant
from localllm.ui import Bytes

if TYPE_CHECKING:
    from localllm.formats.gguf import GGUFModel, TensorInfo
    from localllm.formats.hf import Sizes

Frozen = Literal["quantized", "dense", "nf4"]

PACK_TOKENS = 1024
DEVICE_PACK_TOKENS = 8192  # a GPU is idle with less
_LOSS_BUFFER = 32 << 20
_SCRATCH = 64 << 20  # of a quantized layer's numbers
_PROGRAM = 450 << 20  # the interpreter, torch, transformers, llama.cpp's library
_DEVICE_LOSS = 384 << 20  # `loss.DEVICE_BUFFER_BYTES` of logits, and twice as much made of them
_DEVICE_SCRATCH = 256 << 20  # a block's bytes spread to numbers by torch, step by step
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a number: half, a scale for 64, one for 256 of those
_ROOM = 0.9  # of what is free may be planned with


@dataclass(frozen=True)
class Base:
    """What the plan must know of the base: sizes, and where its bytes are. `layers` are the shapes
    of a block's linear layers by their names in transformers."""

    sizes: Sizes
    layers: Mapping[str, tuple[int, int]]
    matrix_bytes: int  # of matrices as the file has them
    n_params: int
    n_outside: int  # of them in embedding and output, outside the layers
    is_quantized: bool
    kept_bytes: int = 0  # of matrices on a GPU: types that torch does not read are numbers there
    kept_outside_bytes: int = 0  # of them outside the layers


@dataclass(frozen=True)
class Layout:
    """How the run is computed. `pack_tokens` is what one forward pass holds at most; `shards`
    among how many processes the model is parted (1: each holds all of it). `device` is torch's name
    of where it is computed (each process has the device of its own number), and `number_bytes` what
    a number of a layer's frozen matrix takes there."""

    frozen: Frozen
    pack_tokens: int
    checkpointing: bool
    shards: int = 1
    device: str = "cpu"
    number_bytes: int = 4

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def is_sharded(self) -> bool:
        return self.shards > 1


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes at the highest point, by what they are for."""

    program: int
    weights: int
    learned: int
    activations: int
    loss: int

    @property
    def total_bytes(self) -> int:
        return self.program + self.weights + self.learned + self.activations + self.loss

    def as_json(self) -> Mapping[str, int]:
        return {**vars(self), "total_bytes": self.total_bytes}


def base_of(model: GGUFModel, sizes: Sizes, arch: str) -> Base:
    """From a GGUF's header. Raises EngineError for an architecture that is not known."""
    from localllm.formats.hf import family_of_arch

    named = sizes.named()
    block = [part for part in family_of_arch(arch, arch).block if len(part.shape) == 2]
    layers = {p.hf.rpartition(".")[2]: (named[p.shape[0]], named[p.shape[1]]) for p in block}
    tensors = model.tensors.values()
    matrices = [t for t in tensors if len(t.shape) > 1]
    plain = {"F32", "F16", "BF16"}
    return Base(
        sizes=sizes,
        layers=layers,
        matrix_bytes=sum(t.size_bytes for t in matrices),
        n_params=sum(t.n_elements for t in tensors),
        n_outside=sum(t.n_elements for t in tensors if not t.name.startswith("blk.")),
        is_quantized=any(t.type.name not in plain for t in matrices),
        kept_bytes=sum(map(_kept, matrices)),
        kept_outside_bytes=sum(_kept(t) for t in matrices if not t.name.startswith("blk.")),
    )


def _kept(tensor: TensorInfo) -> int:
    return tensor.size_bytes if by_torch(tensor.type.name) else 4 * tensor.n_elements


def memory_need(base: Base, recipe: Recipe, layout: Layout) -> MemoryNeed:
    """What a run laid out so takes, in one process, of the memory of what computes."""
    full = not recipe.is_adapter
    is_quantized = layout.frozen != "dense" and not full
    held = _held(base, layout, full)
    if not layout.is_cpu:
        return _device_need(base, recipe, layout, held)
    learned = 12 * base.n_params if full else 16 * adapter_params(base, recipe)
    return MemoryNeed(
        program=_PROGRAM,
        weights=_parted(base, held, layout, full) + _SCRATCH * is_quantized,
        learned=-(-learned // layout.shards),
        activations=_activations(base.sizes, recipe, layout),
        loss=2 * _LOSS_BUFFER if full else _LOSS_BUFFER,
    )


def _held(base: Base, layout: Layout, full: bool) -> int:
    """Bytes of all weights as they are held."""
    inside = base.n_params - base.n_outside
    if full:
        return 4 * base.n_params
    if layout.frozen == "nf4":
        return int(_NF4 * inside) + base.kept_outside_bytes
    if layout.frozen == "quantized":
        return base.matrix_bytes if layout.is_cpu else base.kept_bytes
    return layout.number_bytes * inside + 4 * base.n_outside


def _device_need(base: Base, recipe: Recipe, layout: Layout, held: int) -> MemoryNeed:
    """On a GPU: the program is elsewhere, and what is made along the way is larger at once."""
    full = not recipe.is_adapter
    learned = 12 * base.n_params if full else 16 * adapter_params(base, recipe)
    return MemoryNeed(
        program=0,
        weights=_parted(base, held, layout, full) + _DEVICE_SCRATCH * (layout.frozen != "dense"),
        learned=-(-learned // layout.shards),
        activations=_activations(base.sizes, recipe, layout),
        loss=_DEVICE_LOSS * (2 if full else 1),
    )


def _parted(base: Base, held: int, layout: Layout, full: bool) -> int:
    """Of `held` bytes of weights what one process has, with what is gathered at the highest
    point: embedding and output, and a layer as it is received and put in place. What learns is
    gathered once more as its gradient."""
    if not layout.is_sharded:
        return held
    outside = held * min(1.0, base.n_outside / base.n_params)
    layer = (held - outside) / base.sizes.n_layer
    gathered = 2 * max(layer, outside) + min(layer, outside)
    return int(held / layout.shards + gathered * (2 if full else 1))


def adapter_params(base: Base, recipe: Recipe) -> int:
    """Numbers that the adapters hold, on all layers that `targets` mean."""
    chosen = {part for target in recipe.targets for part in meant(target, base.layers)}
    width = sum(sum(base.layers[part]) for part in chosen)
    return recipe.rank * width * base.sizes.n_layer


def _activations(sizes: Sizes, recipe: Recipe, layout: Layout) -> int:
    """Floats that the forward pass keeps for the backward pass, times 4."""
    named = sizes.named()
    embd, q, kv, ff = (named[key] for key in ("embd", "q", "kv", "ff"))
    # norms keep their input and what they scale; attention q, k, v and its result; the
    # feed-forward both halves, their product and the nonlinearity's input
    layer = 10 * embd + 5 * q + 6 * kv + 5 * ff
    kept = layer + sizes.n_layer * embd if layout.checkpointing else sizes.n_layer * layer
    return 4 * layout.pack_tokens * (kept + 4 * embd)


def lay_out(
    base: Base, recipe: Recipe, longest: int, available_bytes: int, processes: int = 1,
    device: str = "cpu", number_bytes: int = 4,
) -> Layout:  # fmt: skip
    """What the recipe says, and where it leaves it open the fastest that fits: whole in each of
    the `processes`, else parted among them."""
    shards = processes if recipe.shard == "on" else 1
    tokens = max(recipe.pack_tokens or PACK_TOKENS, longest)
    layout = Layout(_frozen(base, recipe), tokens, recipe.checkpointing == "on", shards, device,
                    number_bytes)  # fmt: skip
    if not layout.is_cpu:
        layout = _on_device(base, recipe, layout, longest, available_bytes)
    if recipe.checkpointing == "auto" and not _fits(base, recipe, layout, available_bytes):
        layout = replace(layout, checkpointing=True)
    if recipe.pack_tokens is None and not _fits(base, recipe, layout, available_bytes):
        layout = replace(layout, pack_tokens=longest)
    whole = recipe.method == "dora" or layout.frozen == "nf4"
    may = recipe.shard == "auto" and not whole and processes > 1
    if may and not _fits(base, recipe, layout, available_bytes):
        sharded = replace(recipe, shard="on")
        return lay_out(base, sharded, longest, available_bytes, processes, device, number_bytes)
    return layout


def _frozen(base: Base, recipe: Recipe) -> Frozen:
    if not recipe.is_adapter or recipe.base_weights == "dense":
        return "dense"
    if recipe.base_weights == "nf4":
        return "nf4"
    wanted = recipe.base_weights == "quantized" or base.is_quantized
    return "quantized" if wanted else "dense"


def _on_device(
    base: Base, recipe: Recipe, layout: Layout, longest: int, available_bytes: int
) -> Layout:
    """A GPU multiplies faster than torch can spread bytes to numbers: numbers where they fit, and
    packs as large as fit."""
    choices = [layout]
    if recipe.base_weights == "auto" and layout.frozen == "quantized":
        choices.insert(0, replace(layout, frozen="dense"))
    for choice in choices:
        tokens = DEVICE_PACK_TOKENS
        while recipe.pack_tokens is None and tokens > PACK_TOKENS:
            larger = replace(choice, pack_tokens=max(tokens, longest))
            if _fits(base, recipe, larger, available_bytes):
                return larger
            tokens //= 2
        if _fits(base, recipe, choice, available_bytes):
            return choice
    return layout


def _fits(base: Base, recipe: Recipe, layout: Layout, available_bytes: int) -> bool:
    return memory_need(base, recipe, layout).total_bytes <= _ROOM * available_bytes


def require_fit(
    name: str, base: Base, recipe: Recipe, layout: Layout, available_bytes: int
) -> MemoryNeed:
    """The need. Raises DoesNotFit with options that would fit, where any do."""
    need = memory_need(base, recipe, layout)
    if need.total_bytes <= _ROOM * available_bytes:
        return need
    ways = [flags for flags, one, other in _smaller(recipe, layout)
            if _fits(base, one, other, available_bytes)]  # fmt: skip
    raise DoesNotFit(
        f"tuning {name} so takes about {Bytes(need.total_bytes)}, and "
        f"{Bytes(int(_ROOM * available_bytes))} can be used",
        f"it would fit with {ways[0]}" if ways else "a smaller model: localllm pull --list",
    )


def _smaller(recipe: Recipe, layout: Layout) -> list[tuple[str, Recipe, Layout]]:
    """Options that take less, the ones that change least first."""
    found: list[tuple[str, Recipe, Layout]] = []
    flags: list[str] = []
    if not recipe.is_adapter:
        flags.append("--method lora")
        recipe = replace(recipe, method="lora", dropout=0.0)
        found.append((" ".join(flags), recipe, layout))
    if not layout.checkpointing:
        flags.append("--checkpointing on")
        layout = replace(layout, checkpointing=True)
        found.append((" ".join(flags), recipe, layout))
    if layout.frozen == "dense":
        flags.append("--base-weights quantized")
        layout = replace(layout, frozen="quantized")
        found.append((" ".join(flags), recipe, layout))
    for length in (512, 256, 128):
        if length < layout.pack_tokens:
            shorter = replace(layout, pack_tokens=length)
            words = [*flags, f"--max-length {length} --pack-tokens {length}"]
            found.append((" ".join(words), recipe, shorter))
    return found
