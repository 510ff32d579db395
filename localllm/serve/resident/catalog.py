"""Which names are served, and what each means. Names lead to the registry and nowhere else."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import InvalidReference, ModelNotFound, UsageProblem
from localllm.refs import ModelRef
from localllm.registry import Model, Registry
from localllm.registry.resolve import pick

# How long what the registry said counts: a second of requests asks it once.
_FRESH_S = 1.0
_LATEST = ":latest"
_LONGEST_NAME = 512


@dataclass(frozen=True)
class Alias:
    """A name that the operator gave: a model with adapters."""

    name: str
    model: Model
    adapters: tuple[tuple[Path, float], ...] = ()


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
        self, registry: Registry, aliases: Sequence[Alias] = (), *, only: bool = False
    ) -> None:
        self.registry = registry
        self.only = only
        self._aliases: Mapping[str, Alias] = {one.name.casefold(): one for one in aliases}
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._models: tuple[Model, ...] = ()

    def find(self, name: str) -> Served:
        """What `name` means. Raises ModelNotFound with the nearest names, AmbiguousModel."""
        if not name or len(name) > _LONGEST_NAME:
            raise ModelNotFound("the request names no model", "give model a name of /v1/models")
        short = name.removesuffix(_LATEST) if name.endswith(_LATEST) else name
        for text in dict.fromkeys((name, short)):
            alias = self._aliases.get(text.casefold())
            if alias is not None:
                return _served(alias.name, alias.model, alias.adapters)
        model = self._resolve(name, short)
        return _served(model.name, model)

    def names(self) -> tuple[Served, ...]:
        """Everything that is served, the operator's own names first."""
        found = [_served(one.name, one.model, one.adapters) for one in self._aliases.values()]
        known = {one.name.casefold() for one in found}
        for model in () if self.only else self.models():
            if model.format == "gguf" and model.name.casefold() not in known:
                found.append(_served(model.name, model))
        return tuple(found)

    def models(self) -> tuple[Model, ...]:
        """The registry's, as it was within the last second."""
        with self._lock:
            now = time.monotonic()
            if now - self._read_at > _FRESH_S:
                self._models, self._read_at = self.registry.models(), now
            return self._models

    def forget(self) -> None:
        """The registry was changed."""
        with self._lock:
            self._read_at = 0.0

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
        near = difflib.get_close_matches(name.casefold(), [a.casefold() for a in aliases], n=3)
        names = [a for a in aliases if a.casefold() in near]
        if "near:" in error.message or not names:
            return error
        return ModelNotFound(f"no model {name!r} here; near: {', '.join(names)}", error.hint)


def _served(name: str, model: Model, adapters: tuple[tuple[Path, float], ...] = ()) -> Served:
    own = tuple((file.path, 1.0) for file in model.with_role("adapter"))
    return Served(name, model, _key(model), (*own, *adapters))


def _key(model: Model) -> str:
    """Of the weights: names that were made from others share their files."""
    first = model.weights[0] if model.weights else model.files[0]
    return first.sha256 or str(first.path)
