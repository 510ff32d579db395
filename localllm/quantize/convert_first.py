"""safetensors are converted to a GGUF before they are quantized."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from localllm.engine.ftypes import ftype
from localllm.library.conversion import ConvertRequest, lineage_of, made_before, run
from localllm.library.conversion_needs import estimated_bytes
from localllm.library.conversion_subject import Subject, find_subject
from localllm.library.derive import require_room
from localllm.quantize.source import Source, open_source, source_of
from localllm.registry import Model, Registry
from localllm.ui import Bytes, Sink


@contextmanager
def converted_source(
    model: Model, types: Sequence[str], registry: Registry, sink: Sink, *, dry_run: bool
) -> Iterator[Source]:
    """A GGUF of the safetensors `model`, in the precision of its weights: one that
    `localllm convert` made, or a temporary one that is gone after the block. In a dry run that
    is the converter's own header before a hole where the tensors would be.

    Raises what conversion raises, and DiskFull where it and the results do not fit together.
    """
    subject = find_subject(model.name, registry)
    request = ConvertRequest("f32" if subject.is_f32 else "auto")
    if (made := made_before(model, registry, sink.progress)) is not None:
        sink.note(f"{model.name} is converted already: {made.name}")
        yield open_source(made)
        return
    from localllm.formats.convert import find_converter

    converter = find_converter(registry.home / "converter")
    how, versions = {"converted": request.out_type}, {"converter": converter.version}
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="localllm-plan-") as folder:
            header = Path(folder) / "header.gguf"
            run(subject, request, converter, None, header, sink.progress, header_only=True)
            yield source_of([header], model, how, subject.inputs, versions)
        return
    lineage = lineage_of(subject, request, converter, sink.progress)
    key = f"convert for quantize {lineage.parents}"
    with registry.lock(key, lambda: sink.note(f"another process is converting {model.name}")):
        made_path = registry.partial(key, f"{model.name.replace('/', '-')}.gguf")
        made_path.unlink(missing_ok=True)  # what a killed process left
        try:
            _check_room(made_path.parent, subject, request, types, sink)
            run(subject, request, converter, None, made_path, sink.progress)
            yield source_of([made_path], model, how, subject.inputs, versions)
        finally:
            made_path.unlink(missing_ok=True)


def _check_room(
    folder: Path, subject: Subject, request: ConvertRequest, types: Sequence[str], sink: Sink
) -> None:
    between = estimated_bytes(subject.folder, request.out_type, "model")
    results = sum(int(between * _share(kind, request.out_type)) for kind in types)
    free = shutil.disk_usage(folder).free
    sink.note(
        f"{subject.model.name} is converted first: about {Bytes(between)} in between, about "
        f"{Bytes(results)} for the result, {Bytes(free)} free"
    )
    what = f"converting and quantizing {subject.model.name} needs about"
    require_room(folder, between + results, what)


def _share(kind: str, out_type: str) -> float:
    """About how large a quantization is beside the file in between."""
    from localllm.formats.gguf import GGML_TYPES

    bits = {t.name.lower(): t.bits_per_element for t in GGML_TYPES.values()}
    wide = 32.0 if out_type == "f32" else 16.0
    return min(1.0, bits.get(ftype(kind).base.lower(), wide) * 1.1 / wide)
