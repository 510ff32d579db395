"""Whether an adapter was trained on this model, by what its lineage recorded."""

from __future__ import annotations

from collections.abc import Iterator

from localllm.errors import UsageProblem
from localllm.library.describe import header_of
from localllm.library.lineage import lineage_in
from localllm.registry import Lineage, Model, Registry

_DEEPEST = 32  # a loop can only come from a hand-made manifest


def check_kin(adapter: Model, base: Model, registry: Registry) -> None:
    """Raise UsageProblem where `stranger` finds one."""
    found = stranger(adapter, base, registry)
    if found is not None:
        name, says = found
        raise UsageProblem(says, f"merge into {name}, or say --any-base")


def stranger(adapter: Model, base: Model, registry: Registry) -> tuple[str, str] | None:
    """Where `adapter` says that it was trained on a model that `base` is not related to (not
    the same content, no variant of the same repository, and neither made from the other nor
    from a common parent): that model's name, and a sentence that says so.

    An adapter that says nothing passes: its shapes are checked elsewhere.
    """
    made = made_from(adapter)
    parents = () if made is None else tuple(p for p in made.parents if p[1] is not None)
    if made is None or not parents or made.operation == "convert":
        return None
    name, digest = parents[0]
    trained_on = _known(name, digest, registry)
    if _same_repository(trained_on, base):
        return None
    ours = set(_family(base, registry))
    theirs = {digest, *(() if trained_on is None else _family(trained_on, registry))}
    if ours & theirs:
        return None
    return name, (
        f"{adapter.name} was trained on {name} (sha256 {str(digest)[:12]}), and {base.name} "
        "is neither that nor made from it; the shapes fit, which says little"
    )


def made_from(model: Model) -> Lineage | None:
    """From the registry, else from the file itself."""
    if model.lineage is not None or model.format == "safetensors":
        return model.lineage
    return lineage_in(header_of(model))


def _known(name: str, digest: str | None, registry: Registry) -> Model | None:
    """The registered model with this content, else of this name."""
    found = registry.with_digest(digest) if digest else None
    if found is not None:
        return found[0]
    return next((model for model in registry.models() if model.name == name), None)


def _family(model: Model, registry: Registry) -> Iterator[str]:
    """Digests of the model and of all it was made from."""
    waiting: list[tuple[Model, int]] = [(model, 0)]
    while waiting:
        one, depth = waiting.pop()
        if one.weights and one.weights[0].sha256:
            yield one.weights[0].sha256
        made = made_from(one) if one.weights and one.weights[0].path.exists() else one.lineage
        for name, digest in () if made is None or depth > _DEEPEST else made.parents:
            if digest:
                yield digest
            parent = _known(name, digest, registry)
            if parent is not None:
                waiting.append((parent, depth + 1))


def _same_repository(a: Model | None, b: Model) -> bool:
    """Two variants of one repository hold the same model."""
    if a is None or a.source in ("file", "local"):
        return False
    return (a.source, a.publisher, a.repo) == (b.source, b.publisher, b.repo)
