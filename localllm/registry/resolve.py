"""From what the user typed to the one model that is meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence

from localllm.errors import AmbiguousModel, ModelNotFound
from localllm.refs import ModelRef
from localllm.registry.model import Model


def pick(models: Sequence[Model], ref: ModelRef) -> Model:
    """The model `ref` names: its name or alias exactly, else the reference it was pulled by,
    else the only one whose short name it is.

    Raises ModelNotFound with the nearest names, AmbiguousModel with the candidates.
    """
    text = str(ref)
    bare = text.removeprefix(f"{ref.scheme}:") if ref.scheme == "hf" else text
    rules: tuple[Callable[[Model], bool], ...] = (
        lambda m: _same(bare, m.name) or _same(text, m.name),
        lambda m: any(_same(text, alias) for alias in m.aliases),
        lambda m: _pulled_by(m, ref),
        lambda m: _short(m, ref),
    )
    for matches in rules:
        found = [model for model in models if matches(model)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(m.name for m in found[:6])
            raise AmbiguousModel(f"{text} could be {names}", "name one of them in full")
    raise _not_found(models, ref)


def slot(
    models: Sequence[Model],
    name: str,
    same: Callable[[Model], bool],
    others: Collection[str] = (),
) -> tuple[str, Model | None]:
    """What a model that should be called `name` is called, and the one it takes the place of.

    That is a model of this name if it is the `same`; where another has the name, or goes by it,
    the new one is called `name-2` and so on. `others` (case folded) name other things.
    """
    taken = {model.name.casefold(): model for model in models}
    aliases = {alias.casefold() for model in models for alias in model.aliases} | {*others}
    candidate, number = name, 2
    while True:
        known = taken.get(candidate.casefold())
        if known is not None and same(known):
            return known.name, known
        if known is None and candidate.casefold() not in aliases:
            return candidate, None
        candidate, number = f"{name}-{number}", number + 1


def _same(a: str, b: str) -> bool:
    return a.casefold() == b.casefold()


def _pulled_by(model: Model, ref: ModelRef) -> bool:
    """The same place; a revision or variant that is not given matches any."""
    return (
        model.ref.scheme == ref.scheme
        and _same(model.ref.name, ref.name)
        and (ref.variant is None or _variant(model, ref.variant))
        and (ref.revision is None or (model.ref.revision or "").startswith(ref.revision))
    )


def _variant(model: Model, variant: str) -> bool:
    return any(v is not None and _same(v, variant) for v in (model.variant, model.ref.variant))


def _short(model: Model, ref: ModelRef) -> bool:
    """`gemma-3-270m` for `org/gemma-3-270m:Q4_K_M`, with or without the variant."""
    if ref.scheme not in ("local", "hf") or ref.revision is not None:
        return False
    names = (model.ref.name, model.ref.name.rpartition("/")[2], model.repo)
    return any(_same(ref.name, n) for n in names) and (
        ref.variant is None or _variant(model, ref.variant)
    )


def _not_found(models: Sequence[Model], ref: ModelRef) -> ModelNotFound:
    text = str(ref)
    known = [name for m in models for name in (m.name, *m.aliases)]
    lowered = {name.casefold(): name for name in known}
    shorts = {name.casefold().rpartition("/")[2]: name for name in known}
    near = difflib.get_close_matches(text.casefold(), [*lowered, *shorts], n=3, cutoff=0.6)
    names = list(dict.fromkeys(lowered.get(n) or shorts[n] for n in near))
    if names:
        return ModelNotFound(f"no model {text!r} here; near: {', '.join(names)}", "localllm list")
    if ref.is_remote:
        return ModelNotFound(f"no model {text!r} here", f"localllm pull {text}")
    return ModelNotFound(
        f"no model {text!r} here", "localllm list, or localllm pull org/repo:VARIANT"
    )
