"""What a search begins with: errors of every type on every tensor, presets, and the limit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from localllm.engine.ggml_types import row_type
from localllm.errors import DoesNotFit
from localllm.quantize.plan import Request
from localllm.quantize.quantize import preview
from localllm.quantize.search.choices import bits_of
from localllm.quantize.search.search import Search
from localllm.quantize.search.sensitivity import Damage, damages
from localllm.quantize.search.weights import Weights
from localllm.quantize.size.fit import bytes_that_fit
from localllm.quantize.size.ground import Ground, Preset, ground_of, presets_of, types_for
from localllm.quantize.size.limit import Limit, asked_limit, check_limit, check_not_kept
from localllm.quantize.size.request import SizeAsked
from localllm.quantize.source import Source
from localllm.ui import Bytes, Sink

if TYPE_CHECKING:
    from localllm.quantize.importance import Vectors
    from localllm.quantize.result import Quantized

_BITS_BELOW = 2.0


@dataclass(frozen=True, eq=False)
class Prepared:
    """A source ready to be searched. `header_bytes` is about what a file has beside its
    tensors; `n_layers` of the model."""

    source: Source
    ground: Ground
    damages: Mapping[str, tuple[Damage, ...]]
    vectors: Vectors
    presets: tuple[Preset, ...]
    header_bytes: int

    @property
    def n_layers(self) -> int:
        return self.source.n_layers

    @property
    def least_bytes(self) -> int:
        """Of the free tensors."""
        return sum(min(d.size_bytes for d in ds) for ds in self.damages.values())

    @property
    def most_bytes(self) -> int:
        return sum(max(d.size_bytes for d in ds) for ds in self.damages.values())

    def free_bytes(self, limit: Limit) -> int:
        """What the limit leaves for the free tensors, about."""
        beside = self.header_bytes if limit.of == "files" else 0
        return limit.n_bytes - self.ground.kept_bytes - beside

    def preset_within(self, limit: Limit) -> Preset | None:
        """The largest preset that keeps the limit too."""
        for preset in self.presets:
            plan = preset.plan
            if (plan.size_bytes if limit.of == "files" else plan.after_bytes) <= limit.n_bytes:
                return preset
        return None


def prepare(
    source: Source, request: Request, sink: Sink, asked: SizeAsked | None = None
) -> Prepared:
    """Look at the source: what is free, what each type does to each tensor, and the presets'
    exact sizes. Half a minute for a model of hundreds of tensors; runs nothing. `asked` spares
    types that are far too small for the size asked for, and the presets where nothing is judged.

    Raises what planning raises (a quantized source, an importance matrix of another model), and
    DoesNotFit for a size below the smallest types, UsageProblem for one the source has.
    """
    from localllm.engine.quantize.quantize import Quantizer
    from localllm.engine.threads import default_threads
    from localllm.quantize.importance import check_importance

    if request.importance is not None:
        check_importance(request.importance, source)
    vectors = _fitting(request, source)
    with Quantizer() as quantizer:
        ground = ground_of(source, request, quantizer)
        if asked is not None:
            check_limit(source, ground, asked, vectors.__contains__, sink)
        judged = asked is None or not asked.quick
        presets = presets_of(source, ground, quantizer, sink.progress) if judged else ()
    names = ground.free
    with sink.progress.steps("errors of types", len(names)) as advance:
        found = damages(
            Weights(source.path), names, _worth_trying(types_for(source, names), asked, ground),
            vectors,
            n_threads=request.n_threads or default_threads(), advance=advance,
        )  # fmt: skip
    smallest = {name: min(ds, key=lambda d: d.size_bytes).type for name, ds in found.items()}
    least = preview(source, ground.with_types(smallest), sink.progress)
    return Prepared(source, ground, found, vectors, presets, least.file_bytes - least.after_bytes)


def _worth_trying(types: Sequence[str], asked: SizeAsked | None, ground: Ground) -> list[str]:
    """`types` without those that have far fewer bits than the free tensors may take: the small
    ones are the slowest to look at. Types of small blocks stay, since some rows take no other."""
    n_free = sum(math.prod(ground.tensors[name].shape) for name in ground.free)
    if asked is None or asked.fit:
        return list(types)
    total: float = asked.size_bytes or 0
    if asked.bpw is not None:
        total = asked.bpw * ground.n_params / 8
    bits = (total - ground.kept_bytes) * 8 / n_free
    small = [row_type(name) for name in types]
    return [
        kind.name.lower() for kind in small
        if kind.block_elements < 256 or bits_of(kind.name) >= bits - _BITS_BELOW
    ]  # fmt: skip


def _fitting(request: Request, source: Source) -> Vectors:
    """The vectors that llama.cpp would use: those as long as the tensor's rows."""
    if request.importance is None:
        return {}
    shapes = {name: (*t.shape, 1, 1) for name, t in source.gguf.tensors.items()}
    return {
        name: vector
        for name, vector in request.importance.vectors.items()
        if vector.size == shapes[name][0] * shapes[name][2]
    }


def limit_of(asked: SizeAsked, prepared: Prepared) -> Limit:
    """The limit that was asked for. Raises DoesNotFit where nothing fits this machine, and
    UsageProblem where the source itself does."""
    limit = asked_limit(asked, prepared.ground)
    if limit is None:
        limit = _limit_that_fits(asked, prepared)
        check_not_kept(prepared.source, prepared.ground, limit)
    return limit


def _limit_that_fits(asked: SizeAsked, prepared: Prepared) -> Limit:
    errors = Search(prepared.damages, prepared.n_layers)
    types = {name: t.to_type for name, t in prepared.ground.tensors.items()}
    n_bytes, assumed = bytes_that_fit(
        prepared.source.gguf,
        lambda n: {**types, **errors.allocated(n)},
        prepared.least_bytes,
        prepared.most_bytes,
        asked.n_ctx,
    )
    return Limit("tensors", n_bytes + prepared.ground.kept_bytes, assumed)


def within(
    prepared: Prepared, search: Search, chosen: Mapping[str, str], limit: Limit, sink: Sink
) -> tuple[Request, Quantized]:
    """The choice as a request that keeps the limit to the byte, and what it makes: `chosen`
    itself, or, where that is over the limit, with as few changes as keep it: what was measured
    whole should stay what it was."""
    ground, types = prepared.ground, dict(chosen)
    for _ in range(8):
        request = replace(ground.with_types(types), search=ground.request.search)
        made = preview(prepared.source, request, sink.progress)
        over = limit.taken(made) - limit.n_bytes
        if over <= 0:
            return request, made
        types = search.trimmed(types, over)
    raise DoesNotFit(
        f"no choice of types keeps {prepared.source.model.name} within {Bytes(limit.n_bytes)}",
        "ask for a little more",
    )
