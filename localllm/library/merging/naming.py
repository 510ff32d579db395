"""What the results of a merge are called, and the commands that make them again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from localllm.library.derive import base_name, checked_name

if TYPE_CHECKING:
    from localllm.library.merging.models import ModelsRequest
    from localllm.library.merging.result import AdapterRequest
    from localllm.library.merging.spec import Spec
    from localllm.registry import Model

ALLOW_LOSS = "--allow-loss"


def adapters_name(base: Model, adapters: Sequence[Model], kind: str, given: str | None) -> str:
    """`gemma3-270m-pirate:Q6_K` of the base gemma3-270m and the adapter pirate. Raises
    UsageProblem, InvalidReference for a given name that cannot be one."""
    if given is not None:
        return checked_name(given)
    stem = base_name(base)
    own = base_name(adapters[0]).removesuffix("-lora") if len(adapters) == 1 else "merged"
    if not own.casefold().startswith(stem.casefold()):
        own = f"{stem}-{own}"
    return f"{own}:{kind}"


def lora_command(
    base: Model,
    adapters: Sequence[tuple[Model, float]],
    kind: str,
    request: AdapterRequest,
) -> str:
    """The command line that makes the same again."""
    words = ["localllm", "merge", base.name]
    for adapter, scale in adapters:
        words += ["--lora", adapter.name if scale == 1.0 else f"{adapter.name}:{scale!r}"]
    words += ["--type", kind]
    if request.imatrix is not None:
        words += ["--imatrix", request.imatrix.name]
    for flag, on in (
        ("--keep-others", request.keep_others),
        (ALLOW_LOSS, request.allow_loss),
        ("--any-base", request.any_base),
    ):
        if on:
            words.append(flag)
    return shlex.join(words)


def models_command(request: ModelsRequest) -> str:
    """The command line with the loss that it allows, for which a later merge looks."""
    if not request.allow_loss or ALLOW_LOSS in shlex.split(request.command):
        return request.command
    return f"{request.command} {ALLOW_LOSS}"


def models_parameters(spec: Spec, models: Mapping[str, Model], kind: str) -> dict[str, object]:
    """Everything that the result depends on, as plain data. Models by their own names, whatever
    the specification calls them."""
    found: dict[str, object] = {"method": spec.method, "type": kind}
    if spec.parameters:
        found["parameters"] = dict(spec.parameters)
    if spec.base is not None:
        found["base"] = models[spec.base].name
    if spec.method.startswith("dare"):
        found["seed"] = spec.seed
    slices = []
    for one in spec.slices:
        sources = []
        for source in one.sources:
            entry: dict[str, object] = {"model": models[source.model].name}
            if spec.stacked:
                entry["layers"] = [source.first, source.last]
            if source.parameters:
                entry["parameters"] = dict(source.parameters)
            sources.append(entry)
        part: dict[str, object] = {"sources": sources}
        if one.base is not None:
            part["base"] = models[one.base].name
        if one.parameters:
            part["parameters"] = dict(one.parameters)
        slices.append(part)
    found["slices"] = slices
    return found


def models_name(spec: Spec, models: Mapping[str, Model], kind: str, request: ModelsRequest) -> str:
    if request.name is not None:
        return checked_name(request.name)
    return f"{base_name(models[spec.primary])}-{spec.method.replace('_', '-')}:{kind}"
