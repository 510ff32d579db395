"""The models to look at: registered, a file, or at a source and not downloaded."""

from __future__ import annotations

from collections.abc import Callable

from localllm import config
from localllm.errors import DamagedFile, ModelNotFound
from localllm.fit.plan import Subject
from localllm.library import find_model
from localllm.library.candidates import Memory, candidates
from localllm.library.choose import chosen
from localllm.library.remote import remote_header
from localllm.refs import ModelRef
from localllm.registry import Model, Registry
from localllm.sources import open_source


def subject_of(
    text: str,
    registry: Registry,
    settings: config.Settings,
    n_ctx: int | None,
    note: Callable[[str], None],
) -> Subject:
    """What `text` names: a model that is here, else one at its source, of which the header
    alone is fetched. Without a variant the one that `pull` would take is looked at.

    Raises ModelNotFound, DamagedFile, and what the source raises.
    """
    ref = ModelRef.parse(text)
    try:
        return _here(find_model(text, registry))
    except ModelNotFound:
        if not ref.is_remote:
            raise
    source = open_source(ref, settings)
    listing = source.locate(ref)
    memory = Memory(n_ctx)
    choice = chosen(
        listing, lambda: (candidates(listing, source, memory), memory.room), ref.variant
    )
    variant = choice.candidate.variant
    name = str(listing.ref.at(ref.revision).pick(variant.name))
    if choice.why:
        note(f"looking at {variant.name}: {choice.why}")
    if variant.format != "gguf":
        raise DamagedFile(f"{name} is no GGUF model but {variant.format}, which has no fit yet")
    return Subject(name, remote_header(source, variant))


def _here(model: Model) -> Subject:
    from localllm.formats import read_model

    if model.format != "gguf":
        raise DamagedFile(f"{model.name} is no GGUF model but {model.format}, which has no fit yet")
    return Subject(model.name, read_model([f.path for f in model.weights]), model.path)
