"""Which names are served, and what each means. Names lead to the registry and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import (
    DamagedFile,
    FileGone,
    InvalidReference,
    ModelNotFound,
    UsageProblem,
)
from localllm.library.answering import Adjustable, Far, all_far
from localllm.library.find import is_adapter, with_base
from localllm.refs import ModelRef
from localllm.registry import Model, Registry
from localllm.registry.freshness import Freshness
from localllm.registry.resolve import pick

_LATEST = ":latest"
_LONGEST_NAME = 512


@dataclass(frozen=True)
class Alias:
    """A name that the operator gave: a model with adapters."""

    name: str
    model: Model
    adapters: tuple[tuple[Path, float], ...] = ()


@dataclass(frozen=True)
class FarAlias:
    """A name that the operator gave to somebody elsewhere."""

    name: str
    far: Far


@dataclass(frozen=True)
class Served:
    """A model as one name means it. `key` is the same for all names of the same weights, which
    are in memory once."""

    name: str
    model: Model
    key: str
    adapters: tuple[tuple[Path, float], ...]


class Catalog:
    """Safe from any thread. With `only`, nothing but the operator's own names is served."""

    def __init__(
        self,
        registry: Registry,
        aliases: Sequence[Alias] = (),
        far: Sequence[FarAlias] = (),
        *,
        only: bool = False,
    ) -> None:
        self.registry = registry
        self.only = only
        self._aliases: Mapping[str, Alias] = {one.name.casefold(): one for one in aliases}
        self._lock = threading.Lock()
        # What the registry said counts until its files change.
        self._fresh, self._far_fresh = (Freshness(registry.database) for _ in range(2))
        self._models: tuple[Model, ...] = ()
        self._far_given = {one.name.casefold(): one for one in far}
        self._far: dict[str, FarAlias] = dict(self._far_given)

    def find(self, name: str) -> Served:
        """What `name` means. Raises ModelNotFound with the nearest names, AmbiguousModel."""
        if not name or len(name) > _LONGEST_NAME:
            raise ModelNotFound("the request names no model", "give model a name of /v1/models")
        short = name.removesuffix(_LATEST) if name.endswith(_LATEST) else name
        for text in dict.fromkeys((name, short)):
            alias = self._aliases.get(text.casefold())
            if alias is not None:
                return served_as(alias.name, alias.model, alias.adapters)
        model = self._resolve(name, short)
        asked = (name.casefold(), short.casefold())
        called = next((one for one in names_of(model) if one.casefold() in asked), model.name)
        return served_as(called, model)

    def names(self) -> tuple[Served, ...]:
        """Everything that is served, the operator's own names first; a model by each of its
        names."""
        found = [served_as(one.name, one.model, one.adapters) for one in self._aliases.values()]
        known = {one.name.casefold() for one in found}
        for model in () if self.only else self._answering():
            found += [
                served_as(name, model) for name in names_of(model) if name.casefold() not in known
            ]
        return tuple(found)

    # --- those elsewhere -----------------------------------------------------------------

    @property
    def far_is_fresh(self) -> bool:
        """Whether `far` answers without reading the registry."""
        return self.only or self._far_fresh.holds()

    def far(self, name: str) -> Far | None:
        """Who answers to `name` from elsewhere, None where nobody does. The operator's own names
        for models count before."""
        for text in dict.fromkeys((name, name.removesuffix(_LATEST))):
            if text.casefold() in self._aliases:
                return None
            known = self._all_far()
            if (found := known.get(text.casefold())) is not None:
                return found.far
            base, at, threshold = text.rpartition("@")
            routed = known.get(base.casefold()) if at else None
            if routed is not None and isinstance(routed.far, Adjustable):
                return routed.far.at(threshold)
        return None

    def far_names(self) -> tuple[FarAlias, ...]:
        """Everyone elsewhere that is served."""
        return tuple(self._all_far().values())

    def _all_far(self) -> dict[str, FarAlias]:
        with self._lock:
            if not self.far_is_fresh:
                with self._far_fresh.reading():
                    known = [FarAlias(one.name, one) for one in all_far(self.registry)]
                self._far = {one.name.casefold(): one for one in known} | self._far_given
            return self._far

    def models(self) -> tuple[Model, ...]:
        """The registry's, as it is now."""
        with self._lock:
            if not self._fresh.holds():
                with self._fresh.reading():
                    self._models = self.registry.models()
            return self._models

    def _answering(self) -> Iterator[Model]:
        """Models that answer: adapters with their bases, where those are here."""
        for model in self.models():
            if model.format == "gguf":
                yield model
            elif is_adapter(model):
                with suppress(ModelNotFound):
                    yield self._with_base(model)

    def _with_base(self, adapter: Model) -> Model:
        """Raises ModelNotFound where its base is not known or gone; where that lay is nothing that
        a request is told."""
        try:
            return with_base(adapter, self.registry)
        except (ModelNotFound, FileGone, DamagedFile):
            why = f"{adapter.name} is an adapter, and its base is not here"
            raise ModelNotFound(why) from None

    def forget(self) -> None:
        """The registry was changed."""
        with self._lock:
            self._fresh.forget()
            self._far_fresh.forget()

    def _resolve(self, name: str, short: str) -> Model:
        """Not Registry.resolve: that takes paths, and asks the disk for the file, which may be
        gone while the model is loaded."""
        models = self._named() if self.only else self.models()
        first: ModelNotFound | None = None
        for text in dict.fromkeys((name, short)):
            try:
                ref = ModelRef.parse(text)
                if ref.scheme == "file":
                    raise ModelNotFound(f"no model {text!r} here")
                model = pick(models, ref)
            except InvalidReference:
                first = first or ModelNotFound(f"no model {text!r} here")
            except ModelNotFound as error:
                first = first or error
            else:
                if is_adapter(model):
                    return self._with_base(model)
                if model.format != "gguf":
                    raise UsageProblem(f"{model.name} is a {model.format} file and cannot answer")
                return model
        assert first is not None
        raise self._nearest(name, first)

    def _named(self) -> tuple[Model, ...]:
        return tuple(one.model for one in self._aliases.values())

    def _nearest(self, name: str, error: ModelNotFound) -> ModelNotFound:
        """The registry's own suggestions, and the operator's names where they are nearer."""
        import difflib

        aliases = [one.name for one in self._aliases.values()]
        aliases += [one.name for one in self.far_names()]
        near = difflib.get_close_matches(name.casefold(), [a.casefold() for a in aliases], n=3)
        names = [a for a in aliases if a.casefold() in near]
        if "near:" in error.message or not names:
            return error
        return ModelNotFound(f"no model {name!r} here; near: {', '.join(names)}", error.hint)


def names_of(model: Model) -> tuple[str, ...]:
    """Its own, and those that it was given beside it (`localllm cp`, /api/copy)."""
    return (model.name, *model.aliases)


def served_as(name: str, model: Model, adapters: tuple[tuple[Path, float], ...] = ()) -> Served:
    """`model` by `name`, with `adapters` beside those that belong to it."""
    return Served(name, model, _key(model), (*model.attached, *adapters))


def _key(model: Model) -> str:
    """Of the weights: names that were made from others share their files."""
    first = model.weights[0] if model.weights else model.files[0]
    return first.sha256 or str(first.path)
