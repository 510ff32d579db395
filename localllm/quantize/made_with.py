"""What a quantization is made with: its lineage and the command that makes it again."""

from __future__ import annotations

import shlex
from typing import Any

from localllm import __version__
from localllm.library.derive import parent_of, shards_of
from localllm.quantize.plan import Request
from localllm.quantize.source import Source
from localllm.registry import Lineage
from localllm.ui import Progress

_UNKNOWN_DIGEST = "0" * 64


def lineage_of(
    source: Source, request: Request, progress: Progress, *, hash_parent: bool = True
) -> Lineage:
    """Parent, recipe, digest of the importance matrix, command and versions; llama.cpp's own
    is added when it is known.

    With `hash_parent` false a parent whose digest nobody took yet is not read for it; the
    lineage is then good for its length alone.
    """
    parameters = request.recipe.parameters() | dict(source.parameters)
    if request.search is not None:
        parameters["search"] = dict(request.search)
    inputs = dict(source.inputs)
    if (weights := request.importance) is not None:
        inputs |= {"imatrix": weights.sha256, **weights.inputs}
        if weights.chosen:
            parameters["imatrix_entries"] = list(weights.chosen)
    if hash_parent or all(file.sha256 is not None for file in source.model.weights):
        parent = parent_of(source.model, progress)
        inputs |= shards_of(source.model, progress)
    else:
        parent = source.model.name, _UNKNOWN_DIGEST
        inputs |= {"shards": _UNKNOWN_DIGEST} if source.model.weights[1:] else {}
    return Lineage(
        "quantize",
        (parent,),
        command_of(source.model.name, request),
        parameters,
        inputs,
        {"localllm": __version__, **source.versions},
    )


def command_of(model: str, request: Request) -> str:
    """The command line that makes the same again."""
    recipe = request.recipe
    words = ["localllm", "quantize", model, recipe.type]
    for flag, value in (
        ("--output-tensor-type", recipe.output_tensor_type),
        ("--token-embedding-type", recipe.token_embedding_type),
        ("--prune-layers", ",".join(map(str, recipe.prune_layers))),
        ("--imatrix", request.importance.path.name if request.importance else None),
    ):
        if value:
            words += [flag, value]
    if request.importance is not None:
        words += request.importance.chosen
    for pattern, kind in recipe.tensor_types:
        words += ["--tensor-type", f"{pattern}={kind}"]
    for key, given in recipe.metadata.items():
        words += ["--override-kv", f"{key}={_typed(given)}"]
    for flag, on in (
        ("--pure", recipe.pure),
        ("--leave-output-tensor", recipe.leave_output_tensor),
        ("--keep-split", recipe.keep_split),
        ("--allow-requantize", request.allow_requantize),
    ):
        if on:
            words.append(flag)
    return shlex.join(words)


def _typed(value: Any) -> str:
    if isinstance(value, bool):
        return f"bool:{str(value).lower()}"
    kind = {int: "int", float: "float"}.get(type(value), "str")
    return f"{kind}:{value}"
