"""What could be pulled: every variant with its size, what it needs and whether that fits."""

from __future__ import annotations

from dataclasses import dataclass

from localllm import config
from localllm.library.candidates import Memory, candidates
from localllm.library.choose import Candidate
from localllm.pull.pull import expanded
from localllm.registry import Registry
from localllm.sources import open_source


@dataclass(frozen=True)
class Offered:
    """One variant. `need_bytes` (memory) and `verdict` are for this machine, by arithmetic from
    the header of the smallest variant; None for what is no GGUF model. `runs` says that the
    memory suffices, however slow. `missing` names shards that the source lacks."""

    variant: str | None
    format: str
    files: int
    size_bytes: int | None
    bits_per_weight: float | None
    need_bytes: int | None
    verdict: str | None
    runs: bool
    missing: tuple[str, ...] = ()


def offers(
    reference: str, registry: Registry, settings: config.Settings, memory: Memory
) -> tuple[Offered, ...]:
    """Every variant at the source, the largest last, then those that lack shards.

    Raises what the source raises, and UsageProblem for a name that leads to none.
    """
    ref = expanded(reference, registry)
    source = open_source(ref, settings)
    listing = source.locate(ref)
    found = sorted(candidates(listing, source, memory), key=lambda c: c.size_bytes or 0)
    broken = [
        _offered(Candidate(v, v.size_bytes, None, None, None), tuple(v.extras["missing"]))
        for v in listing.incomplete
    ]
    return (*map(_offered, found), *broken)


def _offered(c: Candidate, missing: tuple[str, ...] = ()) -> Offered:
    return Offered(
        variant=c.variant.name,
        format=c.variant.format,
        files=len(c.variant.files),
        size_bytes=c.size_bytes,
        bits_per_weight=c.bits_per_weight,
        need_bytes=c.need_bytes,
        verdict=c.verdict,
        runs=c.runs,
        missing=missing,
    )
