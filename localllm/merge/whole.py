"""Whole models: from the words of the command line to a specification."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from localllm.errors import UsageProblem
from localllm.library.find import find_model
from localllm.library.merging.configfile import read_config
from localllm.library.merging.methods import WITH_BASE
from localllm.library.merging.models import MergedModels, ModelsRequest, merge_models
from localllm.library.merging.spec import METHODS, Slice, Source, Spec, checked
from localllm.merge.requests import Given, imatrix_of
from localllm.registry import Model, Registry
from localllm.ui import Progress

_LAYERS = re.compile(r"(?P<model>.+)=(?P<first>\d+)-(?P<last>\d+)")


@dataclass(frozen=True)
class Wanted:
    """What was said of a merge of whole models."""

    models: tuple[str, ...] = ()
    config: Path | None = None
    method: str | None = None
    base: str | None = None
    weights: tuple[float, ...] = ()
    densities: tuple[float, ...] = ()
    t: float | None = None
    layers: tuple[str, ...] = ()
    seed: int | None = None

    @property
    def flags(self) -> dict[str, Any]:
        """The options that a configuration says too, as far as they were given."""
        said = {
            "MODEL": self.models, "--method": self.method, "--base": self.base,
            "--weight": self.weights, "--density": self.densities, "--t": self.t,
            "--layers": self.layers,
        }  # fmt: skip
        return {flag: value for flag, value in said.items() if value not in (None, ())}


def merge_whole(
    wanted: Wanted,
    given: Given,
    registry: Registry,
    progress: Progress,
    note: Callable[[str], None],
    *,
    dry_run: bool,
) -> MergedModels:
    """Raises what `merge_models` raises, and UsageProblem for words that do not go together."""
    _check_beside(given)
    spec, beside = spec_of(wanted)
    if wanted.seed is not None and not spec.method.startswith("dare"):
        raise UsageProblem(f"{spec.method} chooses nothing at random: --seed is of dare")
    found = {name: _find(name, registry) for name in spec.models}
    kind = given.kind or _text(beside.get("type"), "type")
    name = given.name or _text(beside.get("name"), "name")
    request = ModelsRequest(
        type=kind,
        name=name,
        imatrix=imatrix_of(given.imatrix, found[spec.primary], registry),
        allow_loss=given.allow_loss,
        n_threads=given.threads or 0,
        command=command_of(wanted, given, found),
    )
    return merge_models(spec, found, request, registry, progress, note, dry_run=dry_run)


def spec_of(wanted: Wanted) -> tuple[Spec, Mapping[str, Any]]:
    """The specification, and what a configuration says beside it (`type`, `name`)."""
    if wanted.config is not None:
        if wanted.flags:
            first = next(iter(wanted.flags))
            raise UsageProblem(f"{first} and --config cannot be used together", "edit the file")
        spec, beside = read_config(wanted.config)
        if wanted.seed is not None:
            spec = replace(spec, seed=wanted.seed)
        return spec, beside
    if wanted.method is None:
        raise UsageProblem(
            "neither an adapter nor a method was given",
            "localllm merge BASE --lora ADAPTER, or localllm merge MODEL MODEL --method linear",
        )
    method = wanted.method.lower().replace("-", "_")
    if method not in METHODS:
        raise UsageProblem(f"{wanted.method!r} is no method", f"one of {', '.join(METHODS)}")
    slices, parameters = _slices(wanted, method), {}
    if wanted.t is not None:
        parameters["t"] = wanted.t
    spec = Spec(
        method=method,  # type: ignore[arg-type]
        slices=slices,
        base=wanted.base,
        parameters=parameters,
        seed=wanted.seed or 0,
        stacked=bool(wanted.layers),
    )
    return checked(spec), {}


def _slices(wanted: Wanted, method: str) -> tuple[Slice, ...]:
    if wanted.layers:
        if method != "passthrough" or wanted.models:
            raise UsageProblem(
                "--layers stacks layers with --method passthrough, and names the models itself",
                "localllm merge --method passthrough --layers A=0-16 --layers B=8-24",
            )
        return tuple(Slice((_ranged(text),)) for text in wanted.layers)
    base = wanted.base if method in WITH_BASE else None  # elsewhere it is a model like the others
    others = [name for name in wanted.models if name != base]
    weights = _each(wanted.weights, "--weight", others)
    densities = _each(wanted.densities, "--density", others)
    sources = []
    for name in wanted.models:
        own: dict[str, float] = {}
        if name != base and method not in ("slerp", "passthrough"):
            own["weight"] = weights.get(name, 1.0)
        elif name in weights:
            raise UsageProblem(f"{method} has no --weight", "--t for slerp")
        if name in densities:
            own["density"] = densities[name]
        sources.append(Source(name, parameters=own))
    return (Slice(tuple(sources)),)


def _ranged(text: str) -> Source:
    match = _LAYERS.fullmatch(text)
    if match is None or int(match["first"]) >= int(match["last"]):
        raise UsageProblem(f"--layers {text!r} is not MODEL=FROM-TO", "--layers MODEL=0-16")
    return Source(match["model"], int(match["first"]), int(match["last"]))


def _each(values: Sequence[float], flag: str, names: Sequence[str]) -> dict[str, float]:
    """One value for each name: one for all, or one each."""
    if not values:
        return {}
    if len(values) == 1:
        return dict.fromkeys(names, values[0])
    if len(values) != len(names):
        raise UsageProblem(
            f"{flag} is given {len(values)} times, for {len(names)} models", f"{flag} once, or each"
        )
    return dict(zip(names, values, strict=True))


def _find(name: str, registry: Registry) -> Model:
    """A path that is there means that (mergekit's configurations write `models/a`), else a name."""
    path = Path(name).expanduser()
    if path.exists():
        return find_model(f"file:{path.absolute()}", registry)
    return find_model(name, registry)


def command_of(wanted: Wanted, given: Given, found: Mapping[str, Model]) -> str:
    """The command line that makes the same again."""
    words = ["localllm", "merge"]
    if wanted.config is not None:
        words += ["--config", wanted.config.name]
    words += [found[name].name for name in wanted.models]
    for flag, values in (
        ("--method", [wanted.method] if wanted.method else []),
        ("--base", [found[wanted.base].name] if wanted.base else []),
        ("--weight", [repr(w) for w in wanted.weights]),
        ("--density", [repr(d) for d in wanted.densities]),
        ("--t", [] if wanted.t is None else [repr(wanted.t)]),
        ("--layers", [_stacked(text, found) for text in wanted.layers]),
        ("--seed", [] if wanted.seed is None else [str(wanted.seed)]),
        ("--type", [given.kind] if given.kind else []),
        ("--imatrix", [Path(given.imatrix).name] if given.imatrix else []),
    ):
        words += [word for value in values for word in (flag, value)]
    if given.allow_loss:
        words.append("--allow-loss")
    return shlex.join(words)


def _stacked(text: str, found: Mapping[str, Model]) -> str:
    source = _ranged(text)
    return f"{found[source.model].name}={source.first}-{source.last}"


def _check_beside(given: Given) -> None:
    for flag, on in (("--keep-others", given.keep_others), ("--any-base", given.any_base)):
        if on:
            raise UsageProblem(f"{flag} is of adapters: --lora")
    for flag, on in (("--chunks", given.chunks is not None), ("--no-loss", given.no_loss)):
        if on:
            raise UsageProblem(f"{flag} is of the loss that --lora measures")
    if given.texts:
        raise UsageProblem(
            "--text measures what an adapter gained", "localllm quality NAME --text FILE"
        )


def _text(value: Any, key: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise UsageProblem(f"{key} is {value!r}, not a text")
    return value
