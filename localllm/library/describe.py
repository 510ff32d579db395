"""What a model file says of itself, from its header alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import DamagedFile, FileGone
from localllm.library.lineage import lineage_in
from localllm.refs import FileRole, ModelFormat, ModelRef
from localllm.registry import Registry
from localllm.registry.model import Model, StoredFile

if TYPE_CHECKING:
    from localllm.formats.gguf import GGUFView


@dataclass(frozen=True)
class Description:
    """The facts the index keeps of a model."""

    format: ModelFormat
    architecture: str | None
    file_type: str | None
    n_params: int | None
    n_ctx_train: int | None
    title: str | None
    license: str | None


def header_of(model: Model) -> GGUFView:
    """The header of a GGUF model, all shards combined. Raises DamagedFile, FileGone."""
    from localllm.formats.gguf import read_model

    return read_model([f.path for f in model.weights])


def describe(paths: Sequence[Path]) -> Description:
    """What the files of one model are: a GGUF (shards in order) or safetensors files.

    Raises DamagedFile, FileGone.
    """
    if paths[0].suffix.lower() == ".safetensors":
        return _describe_safetensors(paths[0].parent)
    from localllm.formats.gguf import read_model

    return of_header(read_model(list(paths)))


def of_header(header: GGUFView) -> Description:
    """The same from a header that is already read (a remote file's)."""
    formats: dict[str, ModelFormat] = {"adapter": "adapter", "mmproj": "mmproj"}
    kind = header.kind
    n_ctx = None
    if kind == "model" and header.architecture is not None:
        n_ctx = header.arch_u32("context_length")
    file_type = header.file_type
    return Description(
        format=formats.get(kind, "gguf"),
        architecture=header.architecture,
        file_type=None if file_type is None else file_type.name,
        n_params=header.n_params,
        n_ctx_train=n_ctx,
        title=header.text("general.name"),
        license=header.text("general.license"),
    )


def _describe_safetensors(folder: Path) -> Description:
    from localllm.formats import read_safetensors_folder

    found = read_safetensors_folder(folder)
    n_ctx = found.config.get("max_position_embeddings")
    return Description(
        format="adapter" if found.kind == "adapter" else "safetensors",
        architecture=found.model_type or found.architecture,
        file_type=next(iter(found.dtypes), None),
        n_params=found.n_params,
        n_ctx_train=n_ctx if isinstance(n_ctx, int) else None,
        title=None,
        license=None,
    )


def loose_model(path: Path) -> Model:
    """A file that is no part of the registry, as a Model with `id` None.

    A shard stands for its whole family, a folder for the safetensors model in it. Raises
    FileGone, DamagedFile.
    """
    from localllm.formats import shard_name  # the header readers are not needed to list models

    family = _family(path)
    if missing := next((p for p in family if not p.is_file()), None):
        raise FileGone(f"{missing} does not exist")
    if family[0].suffix.lower() not in (".gguf", ".safetensors") and not _is_gguf(path):
        raise DamagedFile(f"{path} is no GGUF file")
    facts = describe(family)
    role: FileRole = "adapter" if facts.format == "adapter" else "weights"
    files = tuple(
        StoredFile(p.name, p.absolute(), p.stat().st_size, None, role, False) for p in family
    )
    shard = shard_name(path.name)
    return Model(
        id=None,
        name=str(path),
        ref=ModelRef("file", str(path)),
        format=facts.format,
        source="file",
        publisher="local",
        repo=shard.stem if shard is not None else path.stem,
        variant=facts.file_type,
        architecture=facts.architecture,
        file_type=facts.file_type,
        n_params=facts.n_params,
        n_ctx_train=facts.n_ctx_train,
        files=files,
        added_at=path.stat().st_mtime,
    )


def _family(path: Path) -> list[Path]:
    from localllm.formats import shard_family

    if not path.is_dir():
        return [path.with_name(name) for name in shard_family(path.name)]
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise FileGone(
            f"{path} is a folder without safetensors weights", f"localllm import --from {path}"
        )
    return weights


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def stray(path: Path, registry: Registry) -> Model | None:
    """A model for a file below the home that no manifest names, from its place and header.

    None for what is no model by itself: a later shard, a damaged or foreign file.
    """
    from localllm.formats import shard_name
    from localllm.registry.upkeep import ref_from_path

    place = ref_from_path(registry, path)
    shard = shard_name(path.name)
    if place is None or path.suffix.lower() != ".gguf" or (shard and shard.number != 1):
        return None
    try:
        loose = loose_model(path)
    except (DamagedFile, FileGone):
        return None
    source, publisher, repo, _ = place
    header = header_of(loose)
    made = lineage_in(header)
    name = _stray_name(source, publisher, repo, loose.variant)
    return replace(
        loose,
        name=name,
        ref=ModelRef.parse(f"hf:{name}" if source == "hf" else name),
        source=source,
        publisher=publisher,
        repo=repo,
        lineage=made,
        files=tuple(replace(f, owned=True) for f in loose.files),
    )


def _stray_name(source: str, publisher: str, repo: str, variant: str | None) -> str:
    tail = f":{variant}" if variant else ""
    if source == "hf":
        return f"{publisher}/{repo}{tail}"
    return f"{repo}{tail}"
