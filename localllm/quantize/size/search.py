"""The best model for a size: search its types, make it, and judge it beside a preset."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from localllm.errors import LocalLLMError, UsageProblem
from localllm.library.find import find_model
from localllm.library.imatrix import find_imatrix
from localllm.quantize.measured.measurer import MeasureOptions
from localllm.quantize.measured.run import measure_made
from localllm.quantize.measured.view import MeasuredSet
from localllm.quantize.plan import Request
from localllm.quantize.quantize import searched_before
from localllm.quantize.requests import Given, base_recipe, importance_for, request_of
from localllm.quantize.result import Quantized, reused
from localllm.quantize.run import kept_or_made, save_made, save_planned, source_for, warn_of
from localllm.quantize.search.choices import bits_for
from localllm.quantize.search.found import Found
from localllm.quantize.search.groups import grouped
from localllm.quantize.search.layers import stretches
from localllm.quantize.search.rounding import kinds_with_a_choice
from localllm.quantize.search.search import Search
from localllm.quantize.search.trial import KnownAnswers
from localllm.quantize.size.base import float_copy, opened_base
from localllm.quantize.size.judge import Verdict
from localllm.quantize.size.limit import Limit, check_before_matrix
from localllm.quantize.size.make import Made, make, named
from localllm.quantize.size.prepare import Prepared, limit_of, prepare, within
from localllm.quantize.size.request import SizeAsked, check_beside
from localllm.quantize.size.text import SomeText, Texts, texts_for
from localllm.quantize.source import Source, hashed
from localllm.registry import Model, Registry
from localllm.ui import Bytes, Sink

_SLACK = 0.005  # what a limit may be left unused without a word
_PARTS = (3, 2, 1)  # of the layers: as fine as the time allows
# Where errors alone were measured to choose worse than llama.cpp's presets (docs/quantize.md).
_QUICK_LEAST_BITS = 3.3


@dataclass(frozen=True)
class BestForSize:
    """`result` is what was made (or would be). `used` is the share of the limit it takes.

    `taken` says whose map it has; `preset` is the largest of llama.cpp's recipes that keeps the
    limit, with the same importance and pins. `verdict` compares their files on text that
    nothing else was chosen by; None in a dry run, with `quick`, or without such a preset.
    `searched_with` names the text of the search. `search` is None where the same was searched
    for before and is there. `measured` is what `--measure` adds.
    """

    result: Quantized
    taken: Literal["search", "preset"]
    limit: Limit
    used: float
    preset: str | None
    preset_bytes: int | None
    verdict: Verdict | None
    search: Found | None
    searched_with: str | None
    imatrix: str | None
    took_s: float
    measured: MeasuredSet | None = None


def best_for_size(
    model: str,
    given: Given,
    asked: SizeAsked,
    registry: Registry,
    sink: Sink,
    *,
    dry_run: bool = False,
    save_plan: Path | None = None,
    again: bool = False,
    measuring: MeasureOptions | None = None,
) -> tuple[BestForSize, LocalLLMError | None]:
    """Make of `model` the file that loses least within the limit `asked`.

    Without --imatrix an importance matrix is found or made. What the same search made before is
    taken as it is, unless `again`. With `measuring` the result is measured too; the error is why
    it could not be. Memory: the model in half precision, unless `quick`. Raises what quantizing
    raises, DoesNotFit (a limit below the smallest types, memory), UsageProblem.
    """
    begun = time.monotonic()
    check_beside(given)
    texts = texts_for(asked.texts)
    if given.imatrix is None:
        given = replace(given, imatrix="auto")
    plain = request_of(given, base_recipe(given))
    replace(plain.recipe, type="Q8_0").checked()  # before anything is converted or measured
    origin = find_model(model, registry)
    with source_for(origin, ["Q8_0"], registry, sink, dry_run) as opened:
        source = opened if dry_run else hashed(opened, sink.progress)
        plain = _weighted(
            plain, given, asked, source, texts.search, registry, sink, dry_run=dry_run
        )
        known = None
        if not (again or dry_run or asked.fit):
            known = searched_before(source, plain, registry, sink.progress)
        if known is not None:
            sink.note(f"{known.name} was made by the same search; --again searches anew")
            if save_plan is not None:
                save_made(save_plan, known, plain)
                sink.note(f"wrote {save_plan}")
            best = _known(known, source, plain, asked, begun)
            return _measured(best, source, measuring, registry, sink)
        prepared = prepare(source, plain, sink, asked)
        limit = limit_of(asked, prepared)
        preset = prepared.preset_within(limit)
        search, found, judged_by = _searched(prepared, limit, asked, texts, registry, sink)
        source.check_unchanged()
        request, planned = within(prepared, search, found.types, limit, sink)
        found = search.settled(found, request.planned or {})
        if dry_run:
            named_so = named(request, prepared).name or planned.name
            made = Made(request, replace(planned, name=named_so), "search", None)
        else:
            made = make(prepared, request, preset, judged_by, texts.judge, registry, sink)
        if save_plan is not None:
            save_planned(save_plan, source, made.request)
            sink.note(f"wrote {save_plan}")
        best = BestForSize(
            result=made.result,
            taken=made.taken,
            limit=limit,
            used=limit.taken(made.result) / limit.n_bytes,
            preset=None if preset is None else preset.name,
            preset_bytes=None if preset is None else preset.plan.size_bytes,
            verdict=made.verdict,
            search=found,
            searched_with=None if asked.quick else texts.search.name,
            imatrix=None if plain.importance is None else plain.importance.path.name,
            took_s=time.monotonic() - begun,
        )
        warn_of(made.result, made.request, sink)
        _say(best, found, prepared, sink)
        return _measured(best, source, measuring, registry, sink)


def _known(
    model: Model, source: Source, request: Request, asked: SizeAsked, begun: float
) -> BestForSize:
    """What is there already, from its file and its lineage."""
    result = reused(model, source, request)
    if asked.bpw is not None:
        limit = Limit("tensors", int(asked.bpw * source.gguf.n_params / 8))
    else:
        limit = Limit("files", asked.size_bytes or result.file_bytes)
    return BestForSize(
        result=result,
        taken="search",
        limit=limit,
        used=limit.taken(result) / limit.n_bytes,
        preset=None,
        preset_bytes=None,
        verdict=None,
        search=None,
        searched_with=None,
        imatrix=None if request.importance is None else request.importance.path.name,
        took_s=time.monotonic() - begun,
    )


def _measured(
    best: BestForSize,
    source: Source,
    options: MeasureOptions | None,
    registry: Registry,
    sink: Sink,
) -> tuple[BestForSize, LocalLLMError | None]:
    model = best.result.model
    if options is None or model is None:
        return best, None
    found, error = measure_made(source, [(model, best.result.type)], options, registry, sink)
    return replace(best, measured=found), error


def _weighted(
    request: Request,
    given: Given,
    asked: SizeAsked,
    source: Source,
    text: SomeText,
    registry: Registry,
    sink: Sink,
    *,
    dry_run: bool,
) -> Request:
    """`request` with its importance matrix. A dry run makes none."""
    name = source.model.name
    if given.imatrix == "auto" and find_imatrix(source.model, registry) is None:
        check_before_matrix(source, request, asked, sink)
        if dry_run:
            raise UsageProblem(
                f"types are chosen by an importance matrix, and none is kept for {name}",
                f"localllm imatrix {name}, or --imatrix none",
            )
    weights = importance_for(given, lambda: kept_or_made(source, registry, sink))
    mark = asked.mark | ({} if asked.quick else {"text_sha256": text.sha256})
    if pins := request.recipe.parameters():
        mark["pinned"] = pins
    return replace(request, importance=weights, search=mark)


def _searched(
    prepared: Prepared,
    limit: Limit,
    asked: SizeAsked,
    texts: Texts,
    registry: Registry,
    sink: Sink,
) -> tuple[Search, Found, KnownAnswers | None]:
    """Choose the types; with the contexts of the final judgment, unless errors decide alone."""
    budget = prepared.free_bytes(limit)
    if asked.quick:
        search = Search(prepared.damages, prepared.n_layers)
        return search, search.find(budget), None
    until = time.monotonic() + asked.minutes * 60
    request, pinned = prepared.ground.request, prepared.ground.pinned
    n_threads = request.n_threads
    with ExitStack() as stack:
        path = stack.enter_context(float_copy(prepared.source, registry, sink, n_threads))
        base = stack.enter_context(
            opened_base(path, prepared.vectors, texts, n_threads, sink)
        )  # fmt: skip
        advance = stack.enter_context(sink.progress.steps("search, runs of the model", None))
        begun = time.monotonic()
        noise = base.trial.measure({}).mean.value
        run_s = time.monotonic() - begun
        sink.note(f"a run takes {run_s:.1f} s; the same model twice differs by {noise:.1e} nats")
        search = Search(
            prepared.damages,
            prepared.n_layers,
            pinned=pinned,
            measure=base.measure,
            measure_whole=base.measure_whole,
            until=until,
            parts=_parts(prepared, run_s, until),
            advance=lambda what: advance(1, what),
        )
        return search, search.find(budget), base.judged_by


def _parts(prepared: Prepared, run_s: float, until: float) -> int:
    """How many parts the layers are taken in, so that all groups can be measured in time."""
    left = until - time.monotonic()
    for parts in _PARTS:
        n_groups = len(grouped(prepared.damages, prepared.n_layers, parts))
        n_kinds = len(kinds_with_a_choice(prepared.damages))
        n_stretches = len(stretches(prepared.damages, prepared.n_layers))
        # alone, many again, how each kind rounds, each layer, and time to quantize
        if (2 * (n_groups + n_kinds) + n_stretches) * run_s * 1.5 <= left:
            return parts
    return _PARTS[-1]


def _say(best: BestForSize, search: Found, prepared: Prepared, sink: Sink) -> None:
    """What a user should know of how it went."""
    limit, judged = best.limit, best.verdict
    if best.used < 1 - _SLACK and best.taken == "search":
        most = prepared.most_bytes <= prepared.free_bytes(limit)
        why = "the best types take no more"
        if not most:
            why = "no choice that takes more of it loses less"
        sink.warn(
            f"{best.result.name} takes {Bytes(limit.taken(best.result))} of the "
            f"{Bytes(limit.n_bytes)} asked for: {why}"
        )
    bits = bits_for(prepared.damages, search.size_bytes)
    if best.searched_with is None and bits < _QUICK_LEAST_BITS:
        sink.warn(
            f"at {bits:.2f} bits a weight errors alone choose worse than llama.cpp's presets do: "
            "leave out --quick, or take a preset"
        )
    elif best.searched_with is None:
        sink.note(
            "errors alone chose, and nothing judged it: on a model of 270M this was 28 % better "
            "than Q3_K_M, and no better that could be told than Q4_K_M; without --quick it is"
        )
    if not search.complete:
        sink.warn(
            "time ran out before every group was measured: more --budget may find better types"
        )
    if best.taken == "preset" and judged is not None:
        sink.warn(
            f"the search did not win: {best.preset}'s own map is taken "
            f"({judged.ours.mean_kld.value:.4g} against {judged.preset.mean_kld.value:.4g} nats)"
        )
