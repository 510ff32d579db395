"""A plan as a file: each tensor's type by name, to be edited and replayed.

    {"format": "localllm.quantize.plan", "version": 1, "type": "Q4_K_M", "prune_layers": [],
     "metadata": {}, "tensors": {"blk.0.attn_q.weight": "q4_k", ...}}

TOML holds the same. `tensors` names every tensor that may be quantized; what it leaves out is
up to the preset `type`, which is also what the file calls itself (general.file_type).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from localllm.engine.ftypes import ftype
from localllm.errors import DamagedFile, FileGone, UsageProblem
from localllm.quantize.recipe import Recipe, mixes, type_name
from localllm.ui.outfile import replace_file

FORMAT, VERSION = "localllm.quantize.plan", 1
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")


def save_plan(path: Path, recipe: Recipe, types: Mapping[str, str]) -> None:
    """Write the type that each tensor gets as a plan: JSON, or TOML where `path` ends in .toml.

    An existing file is replaced at once, never half-written. Raises UsageProblem, FileGone.
    """
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "type": recipe.type,
        "prune_layers": list(recipe.prune_layers),
        "metadata": dict(recipe.metadata),
        "tensors": dict(types),
    }
    text = _toml(document) if path.suffix.lower() == ".toml" else json.dumps(document, indent=1)
    try:
        replace_file(path, text + "\n")
    except OSError as error:
        raise UsageProblem(f"{path} cannot be written: {error.strerror or error}") from None


def load_plan(path: Path) -> tuple[Recipe, dict[str, str]]:
    """The recipe that a plan file stands for, and the types it gives by tensor.

    Raises FileGone, DamagedFile, UsageProblem.
    """
    document = _read(path)
    if document.get("format") != FORMAT:
        raise DamagedFile(f"{path.name} is no quantization plan", "localllm quantize --save-plan")
    if document.get("version") != VERSION:
        raise DamagedFile(f"{path.name}: plans of version {document.get('version')} are unknown")
    try:
        tensors = _tensors(document)
        preset = _text(document, "type")
        recipe = Recipe(
            type=preset,
            **_types(preset, tensors),
            prune_layers=_layers(document.get("prune_layers", [])),
            metadata=_metadata(document.get("metadata", {})),
        )
    except ValueError as error:
        raise DamagedFile(f"{path.name}: {error}") from None
    return recipe.checked(), tensors


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise ValueError(f'it wants a line {key} = "Q4_K_M" or the like')
    return value


def _tensors(document: Mapping[str, Any]) -> dict[str, str]:
    values = document.get("tensors")
    if not isinstance(values, dict):
        raise ValueError("it has no tensors, each with its type")
    for name, kind in values.items():
        if not isinstance(kind, str):
            raise ValueError(f'the type of {name} is {kind!r}, where a name is wanted, like "q4_k"')
    return {name: type_name(kind) for name, kind in values.items()}


def _layers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(n) is int and n >= 0 for n in values):
        raise ValueError("prune_layers are numbers of layers, like [20, 21]")
    return tuple(values)


def _types(preset: str, tensors: Mapping[str, str]) -> dict[str, Any]:
    """How the recipe says them. Of presets that do not mix (F16, COPY) llama.cpp lets embedding
    and output differ alone; whether all others have the types of the plan is seen when it is
    compared with what comes out."""
    if mixes(ftype(preset)):
        return {"tensor_types": patterns_of(tensors)}
    return {
        "token_embedding_type": tensors.get("token_embd.weight"),
        "output_tensor_type": tensors.get("output.weight"),
    }


def _metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(values, dict) or not all(
        isinstance(v, int | float | str) for v in values.values()
    ):
        raise ValueError("metadata is text, a number or true/false, each under its key")
    return dict(values)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a mark there
        found = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except FileNotFoundError:
        raise FileGone(f"there is no file {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DamagedFile(f"{path.name} cannot be read: {why}", _other_form(path)) from None
    if not isinstance(found, dict):
        raise DamagedFile(f"{path.name} is no quantization plan", "localllm quantize --save-plan")
    return found


def _other_form(path: Path) -> str | None:
    """A hint where a plan may have got the other form's name."""
    if path.is_dir():
        return None
    form = "TOML" if path.suffix.lower() == ".toml" else "JSON"
    return f"it is read as {form} for its name: TOML's ends in .toml, JSON's in anything else"


def patterns_of(tensors: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """`tensor name -> type` as few anchored patterns: the layers of one kind and type are one.

    llama.cpp tries every pattern on every tensor, so a pattern a tensor would take minutes.
    """
    layers: dict[tuple[str, str], list[int]] = defaultdict(list)
    alone: list[tuple[str, str]] = []
    for name, kind in tensors.items():
        if match := _BLOCK.fullmatch(name):
            layers[match[2], kind].append(int(match[1]))
        else:
            alone.append((f"^{re.escape(name)}$", kind))
    grouped = [
        (rf"^blk\.({'|'.join(map(str, sorted(numbers)))})\.{re.escape(rest)}$", kind)
        for (rest, kind), numbers in layers.items()
    ]
    return (*alone, *grouped)


def _toml(document: Mapping[str, Any]) -> str:
    lines = [f"{key} = {_value(v)}" for key, v in document.items() if not isinstance(v, Mapping)]
    for table, values in document.items():
        if isinstance(values, Mapping):
            lines += ["", f"[{table}]"]
            lines += [f"{json.dumps(key)} = {_value(v)}" for key, v in values.items()]
    return "\n".join(lines)


def _value(value: Any) -> str:
    """JSON's text of a string, number, truth or list of them is TOML's too."""
    return json.dumps(value, ensure_ascii=True)
