"""Make a model of the registry from another one and a Modelfile. No weights are copied."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from localllm import __version__
from localllm.errors import DamagedFile, LocalLLMError, ModelNotFound, UsageProblem
from localllm.library import find_gguf, find_model
from localllm.library.derive import checked_name, parent_of
from localllm.library.describe import loose_model
from localllm.library.growing import digest_of
from localllm.library.presets import INHERITED
from localllm.modelfile import Modelfile, chat_template
from localllm.refs import ModelRef
from localllm.registry import Arrival, Lineage, Model, Registry, Staged, StoredFile
from localllm.registry.resolve import pick
from localllm.ui import Progress


@dataclass(frozen=True)
class CreatedModel:
    """`replaced`: a model of this name that was made by a Modelfile before is gone."""

    name: str
    base: str
    adapters: tuple[str, ...]
    size_bytes: int
    replaced: bool
    parameters: dict[str, Any]


def create(
    registry: Registry,
    name: str,
    wanted: Modelfile,
    folder: Path,
    progress: Progress,
    note: Callable[[str], None],
    command: str,
) -> CreatedModel:
    """Register `name`: the files of the Modelfile's base and adapters, with its preset.

    Paths in the Modelfile are relative to `folder`. The files of the base are linked, so that
    either model can be removed. Raises UsageProblem for a name that is taken or a template that
    cannot be used, ModelNotFound, FileGone, DamagedFile.
    """
    try:
        checked_name(name)
    except UsageProblem as e:
        raise UsageProblem(e.message, "localllm create mine -f Modelfile") from None
    known = _replaceable(registry, name)
    base = _base(registry, wanted.base, folder)
    if known is not None and base.id == known.id and base.id is not None:
        raise UsageProblem(f"{known.name} cannot be made from itself", "choose another name")
    adapters = [_adapter(registry, text, folder, base) for text in wanted.adapters]
    extras = _extras(base, wanted, note)
    parents = tuple(parent_of(model, progress) for model in (base, *adapters))
    lineage = Lineage(
        "create",
        parents,
        command,
        parameters={"modelfile": wanted.text()},
        versions={"localllm": __version__},
    )
    made = _register(registry, name, base, adapters, extras, lineage, progress)
    return CreatedModel(
        made.name, base.name, tuple(a.name for a in adapters), made.size_bytes, known is not None,
        dict(extras.get("parameters", {})),
    )  # fmt: skip


def _replaceable(registry: Registry, name: str) -> Model | None:
    """The model of this name that the new one takes the place of: one that a Modelfile made."""
    for model in registry.models():
        if name.casefold() in (alias.casefold() for alias in model.aliases):
            raise UsageProblem(f"{name!r} is a second name of {model.name}", f"localllm rm {name}")
        if model.name.casefold() == name.casefold():
            if not _created(model):
                raise UsageProblem(
                    f"{model.name!r} is a model already, and no Modelfile made it",
                    f"choose another name, or first: localllm rm {model.name}",
                )
            return model
    return None


def _base(registry: Registry, text: str, folder: Path) -> Model:
    """What FROM means: a path, a model of the registry, or one of Ollama's names."""
    path = _path(text, folder)
    if _is_path(text) or (not _registered(registry, text) and path.exists()):
        found = find_gguf(_as_file(path), registry)
        # a path means the file, not what another Modelfile made of it
        return loose_model(path.absolute()) if _created(found) else found
    try:
        return find_gguf(text, registry)
    except ModelNotFound as e:
        with suppress(LocalLLMError):
            return find_gguf(f"ollama:{text}", registry)
        plain = ModelRef.parse(text).scheme == "local"
        raise ModelNotFound(
            f"FROM {text}: {e.message}", f"localllm pull ollama:{text}" if plain else e.hint
        ) from None


def _adapter(registry: Registry, text: str, folder: Path, base: Model) -> Model:
    path = _path(text, folder)
    is_file = _is_path(text) or (not _registered(registry, text) and path.exists())
    model = find_model(_as_file(path) if is_file else text, registry)
    if model.format != "adapter" or model.path.suffix.lower() == ".safetensors":
        convertible = model.path.suffix.lower() == ".safetensors"
        raise DamagedFile(
            f"ADAPTER {text} is no LoRA adapter in GGUF form but a {model.format} file",
            f"localllm convert {text}" if convertible else None,
        )
    if None not in (model.architecture, base.architecture) and (
        model.architecture != base.architecture
    ):
        raise UsageProblem(
            f"ADAPTER {text} is for {model.architecture} models; {base.name} is {base.architecture}"
        )
    return model


def _is_path(text: str) -> bool:
    return ModelRef.parse(text).scheme == "file"


def _path(text: str, folder: Path) -> Path:
    return folder / Path(text.removeprefix("file:")).expanduser()


def _as_file(path: Path) -> str:
    return str(ModelRef("file", str(path.absolute())))


def _registered(registry: Registry, text: str) -> bool:
    try:
        pick(registry.models(), ModelRef.parse(text))
    except LocalLLMError:
        return False
    return True


def _extras(base: Model, wanted: Modelfile, note: Callable[[str], None]) -> dict[str, Any]:
    """The base's preset with what the Modelfile says in place of it."""
    found = {key: base.extras[key] for key in INHERITED if key in base.extras}
    before = found.get("parameters")
    parameters = {**(before if isinstance(before, dict) else {}), **wanted.parameters}
    if parameters:
        found["parameters"] = parameters
    if wanted.system is not None:
        found["system"] = wanted.system
    if wanted.messages:
        found["messages"] = [{"role": role, "content": text} for role, text in wanted.messages]
    if wanted.licenses:
        old = found.get("license")
        texts = [*([old] if isinstance(old, str) else []), *wanted.licenses]
        found["license"] = "\n\n".join(dict.fromkeys(texts))
    if wanted.template is not None:
        found["template"] = wanted.template
        found["chat_template"] = jinja_of(wanted.template)
    if wanted.draft is not None:
        raise UsageProblem(
            "DRAFT is not kept with a model", "localllm chat MODEL --draft DRAFT_MODEL"
        )
    for key, value in (("renderer", wanted.renderer), ("parser", wanted.parser)):
        if value is not None:
            found[key] = value
            note(f"{key.upper()} {value} is code of Ollama's: the chat template is used instead")
    if wanted.requires is not None:
        found["requires"] = wanted.requires
    return found


def jinja_of(template: str) -> str:
    """A Modelfile's TEMPLATE as Jinja: it is Go's language, or Jinja already.

    Raises UsageProblem for one that cannot be used.
    """
    from localllm.engine.template import ChatTemplate
    from localllm.errors import EngineError
    from localllm.generation import Message

    source = template if "{%" in template else chat_template(template)
    try:
        ChatTemplate(source, owner="the Modelfile").render([Message("user", "Hello")])
    except (EngineError, UsageProblem) as e:
        raise UsageProblem(f"TEMPLATE: {e.message}") from None
    return source


def _register(
    registry: Registry,
    name: str,
    base: Model,
    adapters: Sequence[Model],
    extras: dict[str, Any],
    lineage: Lineage,
    progress: Progress,
) -> Model:
    ref = ModelRef.parse(name)
    key = f"create {name.casefold()}"
    with registry.lock(key):
        files = _files(base, adapters)
        digests = {base.weights[0].path: lineage.parents[0][1]}
        hashed = [replace(f, sha256=f.sha256 or digests.get(f.path)) for f in files]
        staged = tuple(_staged(registry, key, file, progress) for file in hashed)
        arrival = Arrival(
            name=name,
            ref=ref,
            format="gguf",
            source="local",
            publisher="create",
            repo=ref.name,
            files=staged,
            variant=ref.variant,
            architecture=base.architecture,
            file_type=base.file_type,
            n_params=base.n_params,
            n_ctx_train=base.n_ctx_train,
            lineage=lineage,
            extras=extras,
        )
        # a pull may have taken the name since it was looked for: then this one gets the next
        return registry.add(arrival, _created)


def _created(model: Model) -> bool:
    return model.lineage is not None and model.lineage.operation == "create"


def _files(base: Model, adapters: Sequence[Model]) -> list[StoredFile]:
    """The base's files and the adapters', each under a name of its own."""
    files = list(base.files)
    taken = {file.name.casefold() for file in files}
    for number, adapter in enumerate(adapters, start=1):
        file = adapter.weights[0]
        name = Path(file.name).name
        if name.casefold() in taken:
            name = f"adapter-{number}-{name}"
        taken.add(name.casefold())
        files.append(replace(file, name=name, role="adapter"))
    return files


def _staged(registry: Registry, key: str, file: StoredFile, progress: Progress) -> Staged:
    """A file that is ours as one more link to it, ready to be landed; another program's where it
    lies."""
    if not file.owned:
        return Staged(file.path, file.name, file.size_bytes, file.sha256, file.role, in_place=True)
    partial = registry.partial(key, "create", file.name)
    partial.unlink(missing_ok=True)
    try:
        os.link(file.path, partial)
        sha256 = file.sha256
    except OSError:  # a file system without links: the bytes are stored twice
        shutil.copyfile(file.path, partial)
        with progress.bytes(f"checksum of {file.name}", file.size_bytes) as advance:
            sha256 = digest_of(partial, advance)
    return Staged(partial, file.name, file.size_bytes, sha256, file.role)
