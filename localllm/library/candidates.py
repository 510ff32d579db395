"""What each variant of a repository would take, from the headers of a few of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from localllm.errors import DamagedFile, EngineError
from localllm.formats.gguf import GGUFModel, GGUFView
from localllm.library.choose import Candidate
from localllm.library.remote import remote_header
from localllm.sources.base import Listing, Source, Variant
from localllm.ui import Bytes

if TYPE_CHECKING:
    from localllm.formats.gguf import TensorInfo
    from localllm.formats.gguf.metadata import Metadata
    from localllm.placement import Plan, PlanOptions, Target

# A repository may hold several models; for more than this many no header is fetched.
_MOST_HEADERS = 4
_EMBEDDING = "token_embd.weight"


class Memory:
    """The memory that models are to fit, at a context of `n_ctx` tokens (None: the default).

    `target` None is this machine, looked at when first needed.
    """

    def __init__(self, n_ctx: int | None = None, target: Target | None = None) -> None:
        self._n_ctx = n_ctx
        self._given = target

    @cached_property
    def target(self) -> Target:
        from localllm.placement import this_machine

        return self._given or this_machine()

    @property
    def room(self) -> str:
        """For sentences: `22.8 GiB of memory`, with the GPUs' where there are any."""
        host = f"{Bytes(self.target.host_available_bytes)} of memory"
        gpus = sum(g.free_bytes for g in self.target.gpus)
        return f"{Bytes(gpus)} of GPU memory and {host}" if gpus else host

    def plan(self, header: GGUFView) -> Plan:
        """Where the model would go, by arithmetic: nothing is loaded. Raises DamagedFile."""
        from localllm.placement import plan_for

        return plan_for(header, self.target, self._options)

    def settled_plan(self, header: GGUFModel) -> Plan:
        """The same, but where arithmetic is too near to a limit to tell, llama.cpp is asked
        (a dry run on a stand-in made of the header, about a second)."""
        from localllm.placement import machine_for, plan_for

        plan = self.plan(header)
        if not self.target.here or not _is_close(plan):
            return plan
        try:
            with machine_for(header) as machine:
                return plan_for(header, self.target, self._options, machine)
        except (EngineError, OSError):  # an architecture it does not know; no temporary folder
            return plan

    @property
    def _options(self) -> PlanOptions:
        from localllm.placement import PlanOptions

        return PlanOptions(n_ctx=self._n_ctx)


def _is_close(plan: Plan) -> bool:
    """Whether the error of the compute buffers could change what fits where."""
    margins = [
        (d.total_bytes - (d.free_bytes - d.headroom_bytes), d.compute_bytes) for d in plan.devices
    ]
    host = plan.host
    margins.append((host.total_bytes - host.available_bytes, host.compute_bytes))
    return any(abs(over) <= plan.compute_error * compute for over, compute in margins)


def candidates(
    listing: Listing,
    source: Source,
    memory: Memory,
    known: tuple[Variant, GGUFView] | None = None,
) -> list[Candidate]:
    """Every variant with size, bits per weight, memory need and verdict.

    One header is fetched for each model of the repository, its smallest variant's (`known` is
    one that need not be). The others are planned as that one with their own weight: cache and
    buffers do not depend on the type, so what is off is how the weights are spread. That was
    under 0.02 % over the types of a 270M model, and matters only near a limit.
    """
    headers: dict[object, _Probe] = {}
    for base, variants in _models(listing):
        if known is not None and known[0].extras.get("base") == base:
            headers[base] = _Probe(*known)
        elif len(headers) < _MOST_HEADERS:
            try:
                smallest = min(variants, key=_weight)
                headers[base] = _Probe(smallest, remote_header(source, smallest))
            except DamagedFile:
                continue  # pulling it will say so
    return [_candidate(v, headers.get(v.extras.get("base")), memory) for v in listing.variants]


def _models(listing: Listing) -> list[tuple[object, list[Variant]]]:
    """GGUF variants by what they are quantizations of, those with most variants first."""
    groups: dict[object, list[Variant]] = {}
    for variant in listing.variants:
        if variant.format == "gguf" and _weight(variant):
            groups.setdefault(variant.extras.get("base"), []).append(variant)
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def _weight(variant: Variant) -> int:
    """Bytes of the files with the weights, 0 where the source does not tell all."""
    sizes = [f.size_bytes for f in variant.weights]
    return 0 if None in sizes else sum(s or 0 for s in sizes)


@dataclass(frozen=True)
class _Probe:
    """A variant whose header is known; the others of its model are measured by it."""

    variant: Variant
    header: GGUFView

    def like(self, other: Variant) -> GGUFView:
        """The header that `other` has, as far as memory goes: the same tensors, in all as much
        smaller or larger as its files are."""
        if other is self.variant:
            return self.header
        beside = _weight(self.variant) - self.header.weights_bytes  # vocabulary, padding
        weights = max(1, _weight(other) - beside)
        fixed = self._embedding_bytes(weights * 8 / max(1, self.header.n_params))
        tensors = dict(self.header.tensors)
        if fixed:
            tensors[_EMBEDDING] = replace(tensors[_EMBEDDING], size_bytes=fixed)
        rest = sum(
            t.size_bytes for name, t in tensors.items() if not (fixed and name == _EMBEDDING)
        )
        share = max(1, weights - fixed) / max(1, rest)
        for name, tensor in tensors.items():
            if not (fixed and name == _EMBEDDING):
                tensors[name] = replace(tensor, size_bytes=round(tensor.size_bytes * share))
        return _Scaled(self.header.name, self.header.metadata, tensors)

    def _embedding_bytes(self, bits_per_weight: float) -> int:
        """Of an embedding that is the output matrix too, 0 where there are two: quantizers
        keep it at Q6_K or so whatever the rest becomes, and GPUs hold it a second time."""
        if "output.weight" in self.header.tensors or _EMBEDDING not in self.header.tensors:
            return 0
        embedding = self.header.tensors[_EMBEDDING]
        own_bits = embedding.size_bytes * 8 / max(1, embedding.n_elements)
        bits = next((b for b in (32, 16, 8.5) if bits_per_weight >= 0.97 * b), own_bits)
        return round(bits * embedding.n_elements / 8)


@dataclass(frozen=True, eq=False)
class _Scaled(GGUFView):
    name: str
    metadata: Metadata
    tensors: Mapping[str, TensorInfo]


def _candidate(variant: Variant, probe: _Probe | None, memory: Memory) -> Candidate:
    if probe is None or variant.format != "gguf" or not _weight(variant):
        return Candidate(variant, variant.size_bytes, None, None, None)
    header = probe.like(variant)
    try:
        plan = memory.plan(header)
    except DamagedFile:  # no language model, or of a kind that nothing is known of
        return Candidate(variant, variant.size_bytes, header.bits_per_weight, None, None)
    return Candidate(
        variant=variant,
        size_bytes=variant.size_bytes,
        bits_per_weight=header.bits_per_weight,
        need_bytes=plan.total_bytes,
        verdict=plan.verdict,
        runs=plan.runs,
    )


def largest_that_runs(found: Sequence[Candidate], below_bytes: int) -> Candidate | None:
    """Of those smaller than `below_bytes` the largest that the memory can hold."""
    fitting = [c for c in found if c.runs and (c.need_bytes or 0) < below_bytes]
    return max(fitting, key=lambda c: c.need_bytes or 0, default=None)
