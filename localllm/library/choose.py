"""Which variant of a repository to take when the user names none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localllm.errors import DoesNotFit, SourceNotFound
from localllm.sources import matching
from localllm.sources.base import Listing, Variant
from localllm.ui import Bytes

# Above this, more bits change nothing that is measurable in the output; F16 and F32 files are
# for quantizing from. 8.5 is Q8_0.
_ENOUGH_BPW = 8.6


@dataclass(frozen=True)
class Candidate:
    """A variant and what it would take. Bytes are of memory, the whole model with cache and
    buffers; None where the source does not tell its size."""

    variant: Variant
    size_bytes: int | None
    bits_per_weight: float | None
    need_bytes: int | None
    verdict: str | None  # "all" | "partial" | "cpu" | "none"


@dataclass(frozen=True)
class Choice:
    candidate: Candidate
    why: str


def choose(listing: Listing, candidates: Sequence[Candidate], room: str) -> Choice:
    """The best variant that fits: the most bits a weight up to Q8_0, all on the GPU before
    partly, partly before not. `room` names the memory for the sentence.

    Raises DoesNotFit naming the smallest need, SourceNotFound where there is nothing.
    """
    if not candidates:
        raise SourceNotFound(f"{listing.ref.name} has no model files", listing.page)
    if len(candidates) == 1:
        return Choice(candidates[0], "it is the only variant")
    usable = [c for c in candidates if c.variant.format == "gguf" and c.need_bytes is not None]
    if not usable:
        return Choice(candidates[0], "it is the first, and sizes are not known")
    fitting = [c for c in usable if c.verdict not in (None, "none")]
    if not fitting:
        least = min(usable, key=lambda c: c.need_bytes or 0)
        raise DoesNotFit(
            f"no variant of {listing.ref.name} fits {room}: {least.variant.name}, the smallest, "
            f"needs {Bytes(least.need_bytes or 0)}",
            f"localllm fit {listing.ref.name} --gpu NAME, or --force with a variant",
        )
    for verdicts, where in ((("all",), "all on the GPU"), (("partial", "cpu"), room)):
        pool = [c for c in fitting if c.verdict in verdicts]
        if pool:
            return _best(pool, where)
    return _best(fitting, room)


def _best(pool: Sequence[Candidate], where: str) -> Choice:
    sane = [c for c in pool if (c.bits_per_weight or 0) <= _ENOUGH_BPW]
    best = max(sane or pool, key=lambda c: c.size_bytes or 0)
    larger = [c for c in pool if (c.size_bytes or 0) > (best.size_bytes or 0)]
    why = f"the most bits a weight that fits {where}"
    if sane and larger:
        names = ", ".join(str(c.variant.name) for c in larger[:3])
        why += f"; {names} would fit too and gain nothing measurable over 8 bits"
    return Choice(best, why)


def chosen(
    listing: Listing, candidates: Callable[[], tuple[Sequence[Candidate], str]], wanted: str | None
) -> Choice:
    """The variant the user named, the only one there is, or the best that fits.

    `candidates` (with the room for the sentence) is called only where there is a choice.
    """
    if wanted is not None:
        return Choice(_bare(matching(listing, wanted)), "")
    if len(listing.variants) == 1:
        return Choice(_bare(listing.variants[0]), "")
    return choose(listing, *candidates())


def _bare(variant: Variant) -> Candidate:
    return Candidate(variant, variant.size_bytes, None, None, None)
