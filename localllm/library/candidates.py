"""What each variant of a repository would take, from the header of one of them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from localllm.library.choose import Candidate
from localllm.library.remote import remote_header
from localllm.sources.base import Listing, Source, Variant
from localllm.ui import Bytes

if TYPE_CHECKING:
    from localllm.formats import GGUFView
    from localllm.placement import Plan, Target


class Memory:
    """The memory of this machine, looked at when first needed."""

    def __init__(self, n_ctx: int | None) -> None:
        self._n_ctx = n_ctx

    @cached_property
    def target(self) -> Target:
        from localllm.placement import this_machine

        return this_machine()

    @property
    def available_bytes(self) -> int:
        """GPU memory and main memory together, what can be taken now."""
        gpus = sum(g.free_bytes for g in self.target.gpus if not g.shares_host_memory)
        return gpus + self.target.host_available_bytes

    @property
    def room(self) -> str:
        """For sentences: `22.8 GiB of memory`, with the GPUs' where there are any."""
        host = f"{Bytes(self.target.host_available_bytes)} of memory"
        gpus = sum(g.free_bytes for g in self.target.gpus)
        return f"{Bytes(gpus)} of GPU memory and {host}" if gpus else host

    def plan(self, header: GGUFView) -> Plan:
        """Where the model would go here, by arithmetic (nothing is loaded)."""
        from localllm.placement import PlanOptions, plan_for

        return plan_for(header, self.target, PlanOptions(n_ctx=self._n_ctx))


def candidates(listing: Listing, source: Source, memory: Memory) -> list[Candidate]:
    """Every variant with size, bits per weight, memory need and verdict.

    One header is fetched, the smallest GGUF's. Cache and buffers are the same for all variants
    of a repository, so the others' needs are theirs plus the file's size, and their bits per
    weight its size over the same number of parameters: within 1 % of what their own headers
    would give, and labelled so.
    """
    known = [v for v in listing.variants if v.format == "gguf" and v.size_bytes]
    if not known:
        return [Candidate(v, v.size_bytes, None, None, None) for v in listing.variants]
    probe = min(known, key=lambda v: v.size_bytes or 0)
    header = remote_header(source, probe)
    plan = memory.plan(header)
    overhead = plan.total_bytes - plan.weights_bytes
    return [_candidate(v, header.n_params, overhead, memory) for v in listing.variants]


def _candidate(variant: Variant, n_params: int, overhead: int, memory: Memory) -> Candidate:
    weights = sum(f.size_bytes or 0 for f in variant.weights)
    if variant.format != "gguf" or not weights:
        return Candidate(variant, variant.size_bytes, None, None, None)
    need = weights + overhead
    bits = weights * 8 / n_params if n_params else None
    return Candidate(variant, variant.size_bytes, bits, need, _verdict(need, memory))


def _verdict(need: int, memory: Memory) -> str:
    gpus = sum(max(0, g.free_bytes - g.headroom_bytes) for g in memory.target.gpus)
    if gpus and need <= gpus:
        return "all"
    if need > memory.available_bytes:
        return "none"
    if gpus:
        return "partial" if gpus * 2 >= need else "cpu"
    return "cpu"
