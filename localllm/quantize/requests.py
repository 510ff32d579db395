"""From the words of the command line to requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.engine.ftypes import ftype
from localllm.errors import UsageProblem
from localllm.quantize.importance import Importance, load_importance, thinned
from localllm.quantize.plan import Request
from localllm.quantize.planfile import load_plan
from localllm.quantize.recipe import (
    Recipe,
    parse_layers,
    parse_overrides,
    parse_tensor_type,
    read_tensor_types,
)


@dataclass(frozen=True)
class Given:
    """What was said on the command line, each word as it was."""

    types: tuple[str, ...] = ()
    tensor_types: tuple[str, ...] = ()
    tensor_type_files: tuple[Path, ...] = ()
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    leave_output_tensor: bool = False
    pure: bool = False
    plan: Path | None = None
    imatrix: str | None = None
    include_weights: tuple[str, ...] = ()
    exclude_weights: tuple[str, ...] = ()
    name: str | None = None
    keep_split: bool = False
    prune_layers: str | None = None
    override_kv: tuple[str, ...] = ()
    allow_requantize: bool = False
    threads: int = 0
    max_memory_mib: int | None = None


def requests_for(given: Given) -> tuple[Request, ...]:
    """One request for each type, or one for the plan, without an importance matrix yet.

    Reads the files that were named. Raises UsageProblem, FileGone, DamagedFile.
    """
    recipes, planned = _recipes(given)
    if given.name is not None and len(recipes) > 1:
        raise UsageProblem("--name is one name, and several types were given")
    if (given.include_weights or given.exclude_weights) and given.imatrix in (None, "none"):
        raise UsageProblem("--include-weights and --exclude-weights choose from an --imatrix")
    if given.include_weights and given.exclude_weights:
        raise UsageProblem("--include-weights and --exclude-weights cannot be used together")
    return tuple(request_of(given, recipe, planned) for recipe in recipes)


def request_of(given: Given, recipe: Recipe, planned: Mapping[str, str] | None = None) -> Request:
    """The request for one recipe, without an importance matrix yet."""
    return Request(
        recipe=recipe,
        planned=planned,
        allow_requantize=given.allow_requantize,
        n_threads=given.threads,
        max_buffer_bytes=given.max_memory_mib << 20 if given.max_memory_mib else None,
        name=given.name,
    )


def _recipes(given: Given) -> tuple[list[Recipe], dict[str, str] | None]:
    if given.plan is not None:
        recipe, planned = _planned(given, given.plan)
        return [recipe], planned
    if not given.types:
        raise UsageProblem("no type was given", "localllm quantize MODEL Q4_K_M")
    base = base_recipe(given)
    names = dict.fromkeys(ftype(text).name for text in given.types)
    return [replace(base, type=name).checked() for name in names], None


def base_recipe(given: Given) -> Recipe:
    """What was said beside the type, which is left open. Reads the files that were named."""
    words = [parse_tensor_type(text) for text in given.tensor_types]
    for path in given.tensor_type_files:
        words += read_tensor_types(path)
    return Recipe(
        type="",
        tensor_types=tuple(words),
        output_tensor_type=given.output_tensor_type,
        token_embedding_type=given.token_embedding_type,
        pure=given.pure,
        leave_output_tensor=given.leave_output_tensor,
        prune_layers=parse_layers(given.prune_layers) if given.prune_layers else (),
        metadata=parse_overrides(given.override_kv),
        keep_split=given.keep_split,
    )


def _planned(given: Given, path: Path) -> tuple[Recipe, dict[str, str]]:
    """The plan's recipe; beside a plan only what it does not say may be said."""
    beside = {
        "TYPE": given.types,
        "--tensor-type": given.tensor_types or given.tensor_type_files,
        "--output-tensor-type": given.output_tensor_type,
        "--token-embedding-type": given.token_embedding_type,
        "--leave-output-tensor": given.leave_output_tensor,
        "--pure": given.pure,
        "--prune-layers": given.prune_layers,
    }
    for option, value in beside.items():
        if value:
            raise UsageProblem(f"{option} and --plan cannot be used together", f"edit {path}")
    recipe, tensors = load_plan(path)
    metadata = {**recipe.metadata, **parse_overrides(given.override_kv)}
    return replace(recipe, metadata=metadata, keep_split=given.keep_split), tensors


def importance_for(given: Given, find: Callable[[], Path]) -> Importance | None:
    """The importance matrix that was asked for; `find` gives the path for `auto`.

    Raises FileGone, DamagedFile, UsageProblem.
    """
    if given.imatrix is None or given.imatrix == "none":
        return None
    path = find() if given.imatrix == "auto" else Path(given.imatrix).expanduser()
    found = load_importance(path)
    if given.include_weights or given.exclude_weights:
        return thinned(found, given.include_weights, given.exclude_weights)
    return found
