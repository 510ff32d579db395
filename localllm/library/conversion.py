"""A Hugging Face folder made into a GGUF, registered with what it was made from."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm import __version__
from localllm.library.conversion_needs import estimated_bytes
from localllm.library.conversion_subject import Subject, inputs_of
from localllm.library.derive import (
    base_name,
    checked_name,
    existing,
    parent_of,
    register_derived,
    require_room,
    shards_of,
)
from localllm.library.growing import digest_of
from localllm.library.lineage import lineage_metadata
from localllm.registry import Lineage, Model, Registry
from localllm.ui import Progress

if TYPE_CHECKING:
    from localllm.formats.convert import Converter, OutType


@dataclass(frozen=True)
class Converted:
    """What was made, or (`model` None) would be. `file_bytes` is about right before, exact
    after."""

    model: Model | None
    name: str
    source: str
    kind: str
    type: str
    reused: bool
    file_bytes: int
    elapsed_s: float


@dataclass(frozen=True)
class ConvertRequest:
    """How to convert. `pre_tokenizer` stands in for one the converter does not know."""

    out_type: OutType = "auto"
    pre_tokenizer: str | None = None
    name: str | None = None


def convert(
    subject: Subject,
    request: ConvertRequest,
    registry: Registry,
    progress: Progress,
    note: Callable[[str], None],
    *,
    dry_run: bool = False,
) -> Converted:
    """Convert `subject` and register the result with its lineage; reuse what is made already.

    Code of the model is never run, nothing is downloaded. Raises MissingExtra, DamagedFile,
    UsageProblem, DiskFull, EngineError; on failure nothing is registered or left behind.
    """
    from localllm.formats.convert import find_converter

    converter = find_converter(registry.home / "converter")
    name = checked_name(request.name) if request.name else _name(subject, request)
    needed = estimated_bytes(subject.folder, request.out_type, subject.kind)
    if dry_run:
        return _converted(None, name, subject, request, needed)
    lineage = lineage_of(subject, request, converter, progress)
    key = f"convert {name} {lineage.parents} {sorted(lineage.parameters.items())}"
    with registry.lock(key, lambda: note(f"another process is making {name}; waiting for it")):
        if (model := existing(registry, name, lineage)) is not None:
            return _converted(model, name, subject, request, model.size_bytes, reused=True)
        made = registry.partial(key, name.replace("/", "-"))
        made.unlink(missing_ok=True)
        require_room(made.parent, needed, "the converted model needs about")
        try:
            elapsed_s = run(subject, request, converter, lineage, made, progress)
            with progress.bytes("checksum", made.stat().st_size) as advance:
                digest = digest_of(made, advance)
            model = register_derived(registry, subject.model, [(made, digest)], name, lineage)
        finally:
            made.unlink(missing_ok=True)
    return _converted(model, model.name, subject, request, model.size_bytes, elapsed_s=elapsed_s)


def run(
    subject: Subject,
    request: ConvertRequest,
    converter: Converter,
    lineage: Lineage | None,
    made: Path,
    progress: Progress,
    *,
    header_only: bool = False,
) -> float:
    """Write the GGUF to `made`, with `lineage` in it, and say the seconds it took.

    With `header_only` its tensors are a hole: good for planning.
    """
    import time

    from localllm.formats import convert as formats

    conversion = formats.Conversion(
        folder=subject.folder,
        # of adapters the converter cannot tell the type
        out_type="f32"
        if subject.kind == "adapter" and request.out_type == "auto"
        else request.out_type,
        kind=subject.kind,
        base=subject.base,
        pre_tokenizer=request.pre_tokenizer,
        metadata={} if lineage is None else lineage_metadata(lineage),
        header_only=header_only,
    )
    began = time.perf_counter()
    # beside the result, so that it only has to be renamed
    folder = made.with_name(f"{made.name}.folder")
    shutil.rmtree(folder, ignore_errors=True)  # what a killed process left
    folder.mkdir()
    try:
        with progress.bytes(f"convert {subject.model.name}", subject.size_bytes) as advance:
            on_progress = _shares(subject.size_bytes, advance)
            subject.check_unchanged()
            formats.convert(converter, conversion, folder, on_progress).replace(made)
            subject.check_unchanged()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return time.perf_counter() - began


def _shares(total: int, advance: Callable[[int], None]) -> Callable[[int, int], None]:
    """Progress over the bytes written as progress over the `total` bytes read."""
    shown = 0

    def on_progress(done: int, of: int) -> None:
        nonlocal shown
        now = total * done // of if of else 0
        advance(now - shown)
        shown = now

    return on_progress


def made_before(model: Model, registry: Registry, progress: Progress) -> Model | None:
    """A whole GGUF of `model` in 16 or 32 bits that was converted before and is still there."""
    _, digest = parent_of(model, progress)
    folder = model.weights[0].path.parent
    for known in registry.models():
        made = known.lineage
        if made is None or made.operation != "convert" or made.parents[0][1] != digest:
            continue
        whole = known.format == "gguf" and known.file_type in ("F16", "BF16", "F32")
        here = whole and all(f.path.exists() for f in known.files)
        if here and dict(made.inputs) == inputs_of(folder) | shards_of(model, progress):
            return known
    return None


def lineage_of(
    subject: Subject, request: ConvertRequest, converter: Converter, progress: Progress
) -> Lineage:
    """Parent, output type, command and the versions of everything that takes part."""
    from importlib.metadata import version

    parameters: dict[str, str] = {"type": request.out_type}
    words = ["localllm", "convert", subject.model.name, "--outtype", request.out_type]
    if subject.kind == "mmproj":
        parameters["kind"] = "mmproj"
        words.append("--mmproj")
    if request.pre_tokenizer is not None:
        parameters["pre_tokenizer"] = request.pre_tokenizer
        words += ["--pre-tokenizer", request.pre_tokenizer]
    if subject.base is not None:
        words += ["--base", str(subject.base_name or subject.base)]
    versions = {"localllm": __version__, "converter": converter.version}
    versions |= {name: version(name) for name in ("torch", "transformers")}
    parent = parent_of(subject.model, progress)
    inputs = {**subject.inputs, **shards_of(subject.model, progress)}
    return Lineage("convert", (parent,), shlex.join(words), parameters, inputs, versions)


def _name(subject: Subject, request: ConvertRequest) -> str:
    marks = {"mmproj": "mmproj", "adapter": "lora"}
    stored = subject.auto_type if request.out_type == "auto" else request.out_type.upper()
    return f"{base_name(subject.model)}:{marks.get(subject.kind, stored)}"


def _converted(
    model: Model | None,
    name: str,
    subject: Subject,
    request: ConvertRequest,
    file_bytes: int,
    *,
    reused: bool = False,
    elapsed_s: float = 0.0,
) -> Converted:
    return Converted(
        model=model,
        name=name,
        source=subject.model.name,
        kind=subject.kind,
        type=(model.file_type if model is not None else None) or request.out_type,
        reused=reused,
        file_bytes=file_bytes,
        elapsed_s=elapsed_s,
    )
