"""What the results of a merge are called, and the commands that make them again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from localllm.library.derive import base_name, checked_name

if TYPE_CHECKING:
    from localllm.library.merging.result import AdapterRequest
    from localllm.registry import Model


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
        words += ["--lora", adapter.name if scale == 1.0 else f"{adapter.name}:{scale:g}"]
    words += ["--type", kind]
    if request.imatrix is not None:
        words += ["--imatrix", request.imatrix.name]
    for flag, on in (
        ("--keep-others", request.keep_others),
        ("--allow-loss", request.allow_loss),
        ("--any-base", request.any_base),
    ):
        if on:
            words.append(flag)
    return shlex.join(words)
