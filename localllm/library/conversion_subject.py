"""What is converted: a Hugging Face folder of safetensors, a whole model or an adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from localllm.errors import (
    AmbiguousModel,
    DamagedFile,
    InvalidReference,
    ModelNotFound,
    UsageProblem,
)
from localllm.library.find import find_model
from localllm.library.stamp import Stamp
from localllm.refs import ModelRef
from localllm.registry import Model, Registry

if TYPE_CHECKING:
    from localllm.formats.safetensors import SafetensorsModel

_TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "tiktoken.model",
    "tokenizer.tiktoken", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    "qwen.tiktoken", "ice_text.model", "rwkv_vocab_v20230424.txt",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Subject:
    """A folder to convert and the model it is. `base` is an adapter's base folder."""

    model: Model
    folder: Path
    kind: Literal["model", "mmproj", "adapter"]
    stamps: tuple[Stamp, ...]
    size_bytes: int  # of the weights
    auto_type: str  # what the converter's `auto` makes of the weights: "BF16" ...
    is_f32: bool  # the weights are, so that 16 bits would lose something
    base: Path | None = None
    base_name: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)

    def check_unchanged(self) -> None:
        """Raise DamagedFile where a weights file is not what it was."""
        for stamp in self.stamps:
            stamp.check()


def find_subject(
    text: str, registry: Registry, *, mmproj: bool = False, base: str | None = None
) -> Subject:
    """The registered safetensors model `text`, or the folder it is the path of.

    Raises ModelNotFound, FileGone, DamagedFile, UsageProblem (not safetensors; an adapter
    without its base; no tokenizer where one is needed).
    """
    from localllm.formats import read_safetensors_folder

    model = find_model(text, registry)
    if not any(f.path.suffix.lower() == ".safetensors" for f in model.weights):
        raise UsageProblem(
            f"{model.name} is a {model.format} file: only safetensors are converted",
            f"localllm quantize {model.name} TYPE" if model.format == "gguf" else None,
        )
    folder = model.weights[0].path.parent
    found = read_safetensors_folder(folder)
    kind: Literal["model", "mmproj", "adapter"] = "mmproj" if mmproj else found.kind
    if found.kind == "adapter" and mmproj:
        raise UsageProblem(f"{model.name} is an adapter: it has no vision or audio part")
    base_name, base_folder = None, None
    if kind == "adapter":
        base_name, base_folder = _base(model, found, base, registry)
    if kind != "adapter":
        _check_config(folder, model.name)
    if kind == "model":
        _check_tokenizer(folder, model.name)
    return Subject(
        model=model,
        folder=folder,
        kind=kind,
        stamps=tuple(Stamp.of(path) for path in found.files),
        size_bytes=found.weights_bytes,
        auto_type=_auto_type(found),
        is_f32=next(iter(found.dtypes), None) == "F32",
        base=base_folder,
        base_name=base_name,
        inputs=inputs_of(*((base_folder, folder) if base_folder else (folder,))),
    )


def _base(
    model: Model, found: SafetensorsModel, base: str | None, registry: Registry
) -> tuple[str, Path]:
    """What an adapter's base model is called, and the folder with its config.json; weights are
    not needed. What the adapter itself names is taken where it is here."""
    named = found.config.get("base_model_name_or_path")
    if base is None:
        folder = _here(named, registry) if isinstance(named, str) and named else None
        if folder is not None:
            return str(named), folder
        raise UsageProblem(
            f"{model.name} is an adapter" + (f" of {named}" if isinstance(named, str) else "")
            + ": its base model's config.json is needed",
            f"localllm convert {model.name} --base FOLDER_OR_MODEL",
        )  # fmt: skip
    folder = Path(base).expanduser()
    if not (folder / "config.json").is_file():
        folder = find_model(base, registry).files[0].path.parent
    _check_config(folder, base)
    return base, folder


def _here(named: str, registry: Registry) -> Path | None:
    """The folder of a model as an adapter names it: a path, or a repository of the hub."""
    if (Path(named) / "config.json").is_file():
        return Path(named)
    try:
        folder = registry.resolve(ModelRef.parse(f"hf:{named}")).files[0].path.parent
    except (ModelNotFound, AmbiguousModel, InvalidReference):
        return None
    return folder if (folder / "config.json").is_file() else None


def _check_config(folder: Path, name: str) -> None:
    import json

    path = folder / "config.json"
    if not path.is_file():
        raise DamagedFile(
            f"{name} has no config.json, which says what architecture it is",
            "fetch the whole repository, not the weights alone",
        )
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedFile(f"{name}: config.json is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise DamagedFile(f"{name}: config.json is not a JSON object")


def _check_tokenizer(folder: Path, name: str) -> None:
    if not any((folder / file).is_file() for file in _TOKENIZERS):
        raise DamagedFile(
            f"{name} has no tokenizer (tokenizer.json or tokenizer.model)",
            "fetch the tokenizer files of the model into its folder",
        )


def _auto_type(found: SafetensorsModel) -> str:
    """The converter's choice for `auto`, from the type that most of the weights have."""
    dtype = next(iter(found.dtypes), "BF16")
    return {"F16": "F16", "F32": "F16"}.get(dtype, "BF16")


# What the converter reads beside weights; a model card changes no weight and no token.
_READ = (".json", ".jinja", ".model", ".txt", ".tiktoken")
_NAMED = ("config.json", *_TOKENIZERS[:2])
_LARGEST_BYTES = 256 << 20  # more is no tokenizer: somebody's data lies beside the model


def inputs_of(*folders: Path) -> dict[str, str]:
    """Digests of what the result also depends on: configuration, tokenizer, chat template. Those
    that nearly every model has by name, of the others one together."""
    digests, others = {}, []
    for folder in folders:
        for path in sorted((*folder.glob("*"), *folder.glob("[!.]*/*"))):
            if path.suffix.lower() not in _READ or not path.is_file():
                continue
            if path.stat().st_size <= _LARGEST_BYTES:
                name = path.relative_to(folder).as_posix()
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                if name in _NAMED and name not in digests:
                    digests[name] = digest
                else:
                    others.append(f"{name} {digest}\n")
    if others:
        digests["other_files"] = hashlib.sha256("".join(others).encode()).hexdigest()
    return digests
