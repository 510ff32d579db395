"""Which variant of a listing a user means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches

from localllm.errors import AmbiguousModel, SourceNotFound
from localllm.sources.base import Listing, Variant
from localllm.sources.names import plain_quant, split_of

_SHOWN = 12  # variants a message lists


def matching(listing: Listing, wanted: str) -> Variant:
    """The variant that `wanted` names, whatever its case.

    Tried in this order: a variant's name; a path, then a file name, with or without suffix and
    shard number; a quantization label; a label without its maker's prefix (`Q4_K_M` for
    `i1-Q4_K_M`); a format ("safetensors"). Raises AmbiguousModel, listing the names, where
    several variants answer, and SourceNotFound where none does or its shards are not all there.
    """
    for answers in _MEANINGS:
        if found := [v for v in listing.variants if answers(v, wanted)]:
            if len(found) == 1:
                return found[0]
            raise AmbiguousModel(
                f"{_place(listing)} has several variants {wanted!r}",
                f"name one: {_names(found)}",
            )
        if broken := [v for v in listing.incomplete if answers(v, wanted)]:
            missing = broken[0].extras["missing"]
            raise SourceNotFound(
                f"{_place(listing)} lacks {missing[0]}, a part of {broken[0].name}",
                f"complete are: {_names(listing.variants)}" if listing.variants else None,
            )
    raise _unknown(listing, wanted)


def _by_name(variant: Variant, wanted: str) -> bool:
    return variant.name is not None and variant.name.casefold() == wanted.casefold()


def _by_path(variant: Variant, wanted: str) -> bool:
    return any(wanted.casefold() in spellings for spellings in _spellings(variant))


def _by_file_name(variant: Variant, wanted: str) -> bool:
    wanted = wanted.casefold()
    return any(
        wanted in [path.rpartition("/")[2] for path in spellings]
        for spellings in _spellings(variant)
    )


def _spellings(variant: Variant) -> Iterator[tuple[str, str, str]]:
    """The path of each main file, without its suffix, and without its shard number."""
    for file in variant.files:
        if file.role in ("weights", "adapter") or file.role == variant.format:
            path = file.name.casefold()
            stem = path.rpartition(".")[0]
            split = split_of(stem)
            yield path, stem, split.stem if split else stem


def _by_label(variant: Variant, wanted: str) -> bool:
    quant = variant.extras.get("quant")
    return isinstance(quant, str) and quant.casefold() == wanted.casefold()


def _by_plain_label(variant: Variant, wanted: str) -> bool:
    quant = variant.extras.get("quant")
    return isinstance(quant, str) and plain_quant(quant) == plain_quant(wanted)


def _by_format(variant: Variant, wanted: str) -> bool:
    return variant.format == wanted.casefold()


_MEANINGS: tuple[Callable[[Variant, str], bool], ...] = (
    _by_name,
    _by_path,
    _by_file_name,
    _by_label,
    _by_plain_label,
    _by_format,
)


def _unknown(listing: Listing, wanted: str) -> SourceNotFound:
    names = [v.name for v in listing.variants if v.name is not None]
    close = get_close_matches(wanted.upper(), [n.upper() for n in names], n=3, cutoff=0.75)
    near = [v for v in listing.variants if v.name is not None and v.name.upper() in close]
    if near:
        hint: str | None = f"did you mean {_names(near)}?"
    else:
        hint = f"it has: {_names(listing.variants)}" if names else None
    return SourceNotFound(f"{_place(listing)} has no variant {wanted!r}", hint)


def _place(listing: Listing) -> str:
    return str(listing.ref.at(None).pick(None))


def _names(variants: list[Variant] | tuple[Variant, ...]) -> str:
    names = [v.name or v.format for v in variants]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
