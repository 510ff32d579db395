"""Which variant of a repository to take when the user names none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localllm.errors import AmbiguousModel, DoesNotFit, SourceNotFound
from localllm.sources import matching
from localllm.sources.base import Listing, Variant
from localllm.ui import Bytes

# Above this, more bits change nothing that is measurable in the output; F16 and F32 files are
# for quantizing from. 8.5 is Q8_0.
ENOUGH_BPW = 8.6
# Below this, models lose more than a larger share on the CPU costs in time. 3.06 is IQ3_XXS.
FEW_BPW = 3.0


@dataclass(frozen=True)
class Candidate:
    """A variant and what it would take. Bytes are of memory, the whole model with cache and
    buffers; None where the source does not tell its size. `verdict` is a plan's; `runs` says
    that the memory suffices, however slow (see `placement.Plan`)."""

    variant: Variant
    size_bytes: int | None
    bits_per_weight: float | None
    need_bytes: int | None
    verdict: str | None  # "all" | "partial" | "cpu" | "none"
    runs: bool = False


@dataclass(frozen=True)
class Choice:
    """`why` is empty where the user named the variant, or there is just one."""

    candidate: Candidate
    why: str


def choose(listing: Listing, candidates: Sequence[Candidate], room: str) -> Choice:
    """The best GGUF variant that fits: the most bits a weight up to Q8_0, all on the GPU before
    partly, partly before hardly, and under 3 bits only where nothing else runs. `room` names
    the memory for the sentence. Without a GGUF the model is taken before its adapters.

    Raises DoesNotFit naming the smallest need, AmbiguousModel where nothing speaks for one of
    several, SourceNotFound where there is nothing.
    """
    if not candidates:
        broken = listing.incomplete[0] if listing.incomplete else None
        lacks = f"lacks {broken.extras['missing'][0]}" if broken else "has no model files"
        raise SourceNotFound(f"{listing.ref.name} {lacks}", listing.page)
    ggufs = [c for c in candidates if c.variant.format == "gguf"]
    usable = [c for c in ggufs if c.need_bytes is not None]
    if not usable:
        return _one_of(listing, ggufs or candidates)
    running = [c for c in usable if c.runs]
    if not running:
        least = min(usable, key=lambda c: c.need_bytes or 0)
        raise DoesNotFit(
            f"no variant of {listing.ref.name} fits {room}: {least.variant.name}, the smallest, "
            f"needs {Bytes(least.need_bytes or 0)}",
            f"localllm pull {listing.ref.at(None).pick(least.variant.name)} --force, or a "
            "smaller context: --ctx 2048",
        )
    good = [c for c in running if (c.bits_per_weight or 0) >= FEW_BPW]
    for pool, verdicts, where in (
        (good, ("all",), "all on the GPU"),
        (good, ("partial", "cpu"), room),
        (running, ("all",), "all on the GPU"),
        (running, ("partial", "cpu"), room),
    ):
        if fitting := [c for c in pool if c.verdict in verdicts]:
            return _best(fitting, where)
    return _best(running, f"{room}, most of it on the CPU")


def _best(pool: Sequence[Candidate], where: str) -> Choice:
    sane = [c for c in pool if (c.bits_per_weight or 0) <= ENOUGH_BPW]
    best = max(sane or pool, key=lambda c: c.size_bytes or 0)
    larger = [c for c in pool if (c.size_bytes or 0) > (best.size_bytes or 0)]
    why = f"the most bits a weight that fits {where}"
    if sane and larger:
        names = ", ".join(str(c.variant.name) for c in larger[:3])
        why += f"; {names} would fit too and gain nothing measurable over 8 bits"
    return Choice(best, why)


def _one_of(listing: Listing, candidates: Sequence[Candidate]) -> Choice:
    """Where sizes tell nothing: the only one, or the model among its adapters."""
    models = [c for c in candidates if c.variant.format != "adapter"]
    if len(models or candidates) == 1:
        return Choice((models or candidates)[0], "it is the only model here")
    names = [c.variant.name or c.variant.format for c in candidates]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    raise AmbiguousModel(
        f"{listing.ref.name} has several variants, and nothing says which is meant",
        f"name one, as in {listing.ref.at(None).pick(names[0])}: {', '.join(names[:12])}{more}",
    )


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
