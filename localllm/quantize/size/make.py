"""Making what a search found, and the preset beside it to be judged by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from localllm.library.derive import require_room
from localllm.quantize.importance import importance_file
from localllm.quantize.plan import Request, engine_options
from localllm.quantize.quantize import quantize
from localllm.quantize.result import Quantized
from localllm.quantize.search.trial import KnownAnswers
from localllm.quantize.size.ground import Preset
from localllm.quantize.size.judge import Side, Verdict, answers, change
from localllm.quantize.size.prepare import Prepared
from localllm.quantize.size.text import SomeText
from localllm.registry import Registry
from localllm.ui import Sink


@dataclass(frozen=True, eq=False)
class Made:
    """`request` is what `result` was made by, `taken` whose map of types that is."""

    request: Request
    result: Quantized
    taken: Literal["search", "preset"]
    verdict: Verdict | None


def make(
    prepared: Prepared,
    request: Request,
    preset: Preset | None,
    judged_by: KnownAnswers | None,
    text: SomeText,
    registry: Registry,
    sink: Sink,
) -> Made:
    """Write what was found, register it, and judge it beside the preset's own file, which is
    made for that alone. Where it is not better, the preset's map takes its place.

    Raises what `quantize` raises.
    """
    source = prepared.source
    result = quantize(source, named(request, prepared), registry, sink.progress, sink.note)
    if preset is None or judged_by is None or result.model is None:
        return Made(request, result, "search", None)
    if request.planned == {n: preset.types[n] for n in request.planned or ()}:
        return Made(request, result, "preset", None)
    with preset_file(prepared, preset, registry, sink) as path:
        verdict = judge(result, path, preset, judged_by, text, request.n_threads, sink)
    if verdict.won:
        return Made(request, result, "search", verdict)
    if not result.reused:
        registry.remove(result.model)
    # without a word of the search: the file is then as large as the preset's was found to be
    other = replace(preset.request, name=request.name)
    instead = quantize(source, named(other, prepared), registry, sink.progress, sink.note)
    return Made(other, instead, "preset", verdict)


def named(request: Request, prepared: Prepared) -> Request:
    """With a name that says how large the result is, where the user gave none."""
    from localllm.library.derive import derived_name
    from localllm.quantize.quantize import preview
    from localllm.ui.progress import Silent

    if request.name is not None:
        return request
    made = preview(prepared.source, request, Silent())
    mark = f"{made.bits_per_weight:.2f}bpw"
    return replace(request, name=derived_name(prepared.source.model, mark))


@contextmanager
def preset_file(
    prepared: Prepared, preset: Preset, registry: Registry, sink: Sink
) -> Iterator[Path]:
    """The preset's file for as long as the block runs, among unfinished work. Raises DiskFull."""
    from localllm.engine.quantize.quantize import Quantizer

    source, request = prepared.source, preset.request
    single = replace(request, recipe=replace(request.recipe, keep_split=False))
    key = f"judge {source.path.resolve()} {preset.name}"
    with registry.lock(key, lambda: sink.note(f"another process judges {preset.name}; waiting")):
        path = registry.partial(key, f"{source.path.stem}.{preset.name}.gguf")
        path.unlink(missing_ok=True)  # what a killed process left
        what = f"judging the result (which is kept) by {preset.name} needs"
        require_room(path.parent, preset.plan.size_bytes, what)
        try:
            label = f"{preset.name}, to compare with"
            with (
                sink.progress.bytes(label, preset.plan.before_bytes) as advance,
                importance_file(request.importance) as weights,
                Quantizer() as quantizer,
            ):
                quantizer.quantize(
                    source.path, path, engine_options(source, single, {}, weights),
                    lambda tensor: advance(tensor.before_bytes),
                )  # fmt: skip
            yield path
        finally:
            path.unlink(missing_ok=True)


def judge(
    ours: Quantized,
    preset_path: Path,
    preset: Preset,
    judged_by: KnownAnswers,
    text: SomeText,
    n_threads: int,
    sink: Sink,
) -> Verdict:
    """Both files by the same contexts."""
    assert ours.model is not None
    chunks, references = judged_by.chunks, judged_by.references
    with sink.progress.steps("judging", 2) as advance:
        mine = answers(ours.model.path, chunks, references, n_threads)
        advance(1)
        theirs = answers(preset_path, chunks, references, n_threads)
        advance(1)
    return Verdict(
        ours=Side(ours.name, ours.file_bytes, mine.mean_kld, mine.of_contexts),
        preset=Side(preset.name, preset.plan.size_bytes, theirs.mean_kld, theirs.of_contexts),
        change=change(mine.of_contexts, theirs.of_contexts),
        n_contexts=len(chunks),
        n_tokens=sum(c.n_scored for c in chunks),
        text=text.name,
        text_sha256=text.sha256,
    )
