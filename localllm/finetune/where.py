"""Where a run computes on this machine, and how it is laid out there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from localllm.errors import UsageProblem
from localllm.finetune.plan import Layout, MemoryNeed, lay_out, require_fit

if TYPE_CHECKING:
    from localllm.finetune.recipe import Recipe
    from localllm.finetune.request import Learning, Subject
    from localllm.finetune.training.device import Device
    from localllm.finetune.training.group import Group


def check_device(recipe: Recipe, threads: int) -> None:
    """Before all the data is read: that a device which was named is there, and what `nf4` needs.
    Raises GpuRequired, UsageProblem, MissingExtra."""
    from localllm.finetune.model.loaded import require_nf4
    from localllm.finetune.training.prepare import prepare_torch

    if recipe.base_weights == "nf4":
        require_nf4()
    if recipe.device not in ("auto", "cpu"):
        prepare_torch(threads)
        find_device(recipe)


def find_device(recipe: Recipe, note: Callable[[str], None] = lambda text: None) -> Device:
    """This process's device, with what is free there. A GPU that `auto` leaves alone is told of.

    Imports torch. Raises GpuRequired, UsageProblem.
    """
    from localllm.finetune.training.device import choose
    from localllm.placement import this_machine

    device = choose(recipe.device, this_machine().host_available_bytes)
    if recipe.device == "auto" and device.is_cpu and (gpu := _idle_gpu()) is not None:
        import torch

        note(
            f"{gpu} is not used: torch {torch.__version__} cannot compute on it; one that is built "
            "for it could"
        )
    return device


def _idle_gpu() -> str | None:
    """A GPU of this machine that a torch for it would train on."""
    from localllm.placement.here import look

    known = ("nvidia", "apple")
    return next((gpu.name for gpu in look().usable_gpus if gpu.vendor in known), None)


def laid_out(
    subject: Subject, recipe: Recipe, learning: Learning, note: Callable[[str], None]
) -> tuple[Layout, MemoryNeed]:
    """How this machine computes it; of several processes all alike, as it fits the least of
    them, each on its own device. Raises DoesNotFit, and what `find_device` raises."""
    from localllm.finetune.training.batches import needed
    from localllm.finetune.training.group import join
    from localllm.finetune.training.prepare import asked_to_shard

    device = find_device(recipe, note)
    group = join(device.name)
    kinds = sorted(set(group.all_of(device.kind)))
    if len(kinds) > 1:
        raise UsageProblem(
            f"the processes have different devices: {', '.join(kinds)}", "name one: --device cpu"
        )
    if recipe.base_weights == "nf4" and subject.base.is_quantized:
        note("NF4 quantizes this base once more; --base-weights quantized keeps it as it is")
    items = learning.train
    longest = max(sum(needed(one) for one in items[i]) for i in range(len(items)))
    available = min(group.all_of(device.free_bytes))
    if group.size > 1 and recipe.shard == "auto" and asked_to_shard():
        recipe = replace(recipe, shard="on")
    layout = lay_out(
        subject.base, recipe, longest, available, group.size, device.name,
        _number_bytes(recipe, subject, group, device),
    )  # fmt: skip
    return layout, require_fit(subject.model.name, subject.base, recipe, layout, available)


def _number_bytes(recipe: Recipe, subject: Subject, group: Group, device: Device) -> int:
    """Of a number of a frozen matrix that is held as numbers; see `building.held_in`."""
    if device.is_cpu:
        return 4
    from localllm.finetune.building import held_in, precision_of

    precision, _ = precision_of(recipe, subject, group, None, device.name)
    return 4 if held_in(recipe, precision, device.name) is None else 2
