"""How every tensor's type is chosen: a preset, and what is said beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from localllm.engine.ftypes import Ftype, ftype, tensor_type
from localllm.errors import FileGone, UsageProblem

Scalar = int | float | bool | str


@dataclass(frozen=True)
class Recipe:
    """What decides the bytes of a quantization, importance matrix apart.

    `tensor_types` are (pattern, type): the first pattern found anywhere in a tensor's name
    counts, as in llama-quantize; where none is found, the preset `type` decides.
    """

    type: str
    tensor_types: tuple[tuple[str, str], ...] = ()
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    pure: bool = False
    leave_output_tensor: bool = False
    prune_layers: tuple[int, ...] = ()
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    keep_split: bool = False

    def checked(self) -> Recipe:
        """The same with llama.cpp's own spelling of every type. Raises UsageProblem."""
        preset = ftype(self.type)
        if self.tensor_types and not mixes(preset):
            raise UsageProblem(
                f"{preset.name} gives all tensors one type: tensor types do not count there",
                "choose a quantized type such as Q8_0 beside --tensor-type",
            )
        return replace(
            self,
            type=preset.name,
            tensor_types=tuple((p, type_name(t)) for p, t in self.tensor_types),
            output_tensor_type=_named(self.output_tensor_type),
            token_embedding_type=_named(self.token_embedding_type),
            prune_layers=tuple(sorted(set(self.prune_layers))),
        )

    def parameters(self) -> dict[str, Any]:
        """What is not as it is by default, as plain data: for lineage."""
        found: dict[str, Any] = {"type": self.type}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "tensor_types" and value:
                found["tensor_types"] = [f"{pattern}={name}" for pattern, name in value]
            elif one.name not in ("type", "tensor_types") and value:
                found[one.name] = list(value) if isinstance(value, tuple) else value
        return found


def type_name(text: str) -> str:
    """A tensor type in lower case, as plans and lineage spell it. Raises UsageProblem."""
    tensor_type(text)
    return text.lower()


def _named(text: str | None) -> str | None:
    return None if text is None else type_name(text)


def mixes(preset: Ftype) -> bool:
    """llama.cpp looks at tensor types only where the preset's own type is a quantized one."""
    return preset.base not in ("f32", "f16", "bf16") and not preset.copies


def parse_tensor_type(text: str) -> tuple[str, str]:
    """`REGEX=TYPE`, as llama-quantize reads it: the pattern is taken in lower case.

    The pattern ends at the first `=`. Raises UsageProblem.
    """
    pattern, equals, name = text.partition("=")
    if not equals or not pattern or not name:
        raise UsageProblem(
            f"{text!r} is no tensor type of the form REGEX=TYPE",
            "--tensor-type 'attn_v=q6_k', or '^blk\\.0\\.=q8_0' for a layer",
        )
    return pattern.lower(), type_name(name)


def read_tensor_types(path: Path) -> tuple[tuple[str, str], ...]:
    """A file of `REGEX=TYPE`, separated by blanks or lines. Raises FileGone, UsageProblem."""
    try:
        words = path.read_text(encoding="utf-8-sig").split()
    except FileNotFoundError:
        raise FileGone(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageProblem(f"{path} is no text file of tensor types: {error}") from None
    return tuple(parse_tensor_type(word) for word in words)


def parse_layers(text: str) -> tuple[int, ...]:
    """`0,1,5-7`: layer numbers. Raises UsageProblem."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})(?:-(\d{1,5}))?\s*", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise UsageProblem(f"{text!r} is no list of layers", "--prune-layers 20,21 or 20-23")
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(found))


def parse_overrides(texts: Iterable[str]) -> dict[str, Scalar]:
    """`KEY=TYPE:VALUE` with the types int, float, bool and str, as llama-quantize takes them.

    int becomes u32 in the file, so it cannot be negative. Raises UsageProblem.
    """
    return dict(_override(text) for text in texts)


def _override(text: str) -> tuple[str, Scalar]:
    key, equals, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    if not equals or not colon or not key or len(key.encode()) > 127:
        raise _bad_override(text)
    if key.startswith(("localllm.", "split.")) or key in _RESERVED:
        raise UsageProblem(f"the metadata {key} is written by the program itself")
    try:
        if kind == "int" and 0 <= int(value) < 2**32:
            return key, int(value)
        if kind == "float":
            return key, float(value)
    except ValueError:
        raise _bad_override(text) from None
    if kind == "bool" and value in ("true", "false"):
        return key, value == "true"
    if kind == "str" and len(value.encode()) <= 127:
        return key, value
    raise _bad_override(text)


_RESERVED = ("general.alignment", "general.file_type", "general.quantization_version")


def _bad_override(text: str) -> UsageProblem:
    return UsageProblem(
        f"{text!r} is no metadata of the form KEY=TYPE:VALUE (TYPE int of 0 to 2^32-1, float, bool,"
        " or str of up to 127 bytes)",
        "--override-kv general.name=str:mine",
    )
