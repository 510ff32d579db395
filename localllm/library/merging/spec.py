"""What is to be merged, as mergekit's configurations say it, from YAML, TOML or the command line.

Models come as `models:` (all layers) or as `slices:` (ranges of layers, stacked in order). A
parameter is a number, a list of numbers (a gradient over the layers), or a list of
`{filter, value}` of which the first that fits a tensor's name counts; looked up at the source of
a slice, the slice, and then the whole configuration, as mergekit does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from localllm.errors import UsageProblem
from localllm.library.merging.methods import Method

METHODS: tuple[str, ...] = get_args(Method)

# What each method reads, beside `weight` and the rest of nothing: anything else is a mistake.
PARAMETERS: Mapping[str, frozenset[str]] = {
    "linear": frozenset({"weight", "normalize"}),
    "slerp": frozenset({"t"}),
    "task_arithmetic": frozenset({"weight", "normalize", "lambda", "int8_mask"}),
    "ties": frozenset({"weight", "density", "normalize", "lambda", "int8_mask"}),
    "dare_ties": frozenset({"weight", "density", "normalize", "lambda", "int8_mask", "rescale"}),
    "dare_linear": frozenset({"weight", "density", "normalize", "lambda", "int8_mask", "rescale"}),
    "passthrough": frozenset({"scale"}),
}
NORMALIZES = ("linear", "ties")  # by default


@dataclass(frozen=True)
class Source:
    """Layers `first` to before `last` of a model (None: all of them), with parameters of its
    own."""

    model: str
    first: int | None = None
    last: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """Layers of the result, from as many layers of each source."""

    sources: tuple[Source, ...]
    base: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """A merge of whole models. `dtype` is the type of the result ("float16"), None where it is
    not said."""

    method: Method
    slices: tuple[Slice, ...]
    base: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    seed: int = 0
    stacked: bool = False  # given as slices

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that is named, the base first."""
        named = [s.model for one in self.slices for s in one.sources]
        bases = [name for name in (self.base, *(one.base for one in self.slices)) if name]
        return tuple(dict.fromkeys([*bases, *named]))

    @property
    def primary(self) -> str:
        """Whose metadata and name the result gets."""
        return self.base or self.slices[0].sources[0].model


@dataclass(frozen=True)
class Reader:
    """Parameters as they hold at one place: a slice, how far through its layers (0 to 1), and the
    names that a tensor goes by."""

    spec: Spec
    part: Slice
    t: float
    names: Sequence[str]

    def value(self, name: str, source: Source | None = None) -> Any:
        """The value of a parameter, None where nothing sets it. Raises UsageProblem."""
        places = [self.part.parameters, self.spec.parameters]
        if source is not None:
            places.insert(0, source.parameters)
        for parameters in places:
            if name in parameters:
                found = evaluated(parameters[name], self.names, self.t, name)
                if found is not None:
                    return found
        return None

    def number(self, name: str, source: Source | None, default: float | None) -> float:
        """Raises UsageProblem where there is none and no default, or it is no number."""
        found = self.value(name, source)
        if found is None:
            found = default
        if found is None:
            where = f" of {source.model}" if source is not None else ""
            raise UsageProblem(
                f"{name}{where} is not set for {self.names[0]}", f"give {name} a value"
            )
        return number_of(found, name)

    def flag(self, name: str, default: bool) -> bool:
        found = self.value(name)
        if found is None:
            return default
        if not isinstance(found, bool | int) or found not in (0, 1):
            raise UsageProblem(f"{name} is {found!r}, not true or false")
        return bool(found)


def evaluated(setting: Any, names: Sequence[str], t: float, what: str) -> Any:
    """A setting for a tensor, None where its filters leave it out."""
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, Sequence) or isinstance(setting, str):
        return setting
    if not setting:
        raise UsageProblem(f"{what} is an empty list")
    if all(isinstance(one, Mapping) for one in setting):
        for one in setting:
            if unknown := set(one) - {"filter", "value"} or ({"value"} - set(one)):
                raise UsageProblem(f"{what}: an entry has filter and value, not {sorted(unknown)}")
            wanted = one.get("filter")
            if wanted in (None, "*") or any(str(wanted) in name for name in names):
                return evaluated(one["value"], names, t, what)
        return None
    numbers = [number_of(one, what) for one in setting]
    place = t * (len(numbers) - 1)
    low = int(place)
    high = min(low + 1, len(numbers) - 1)
    return (1 - (place - low)) * numbers[low] + (place - low) * numbers[high]


def number_of(value: Any, what: str) -> float:
    """A finite number. Raises UsageProblem."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise UsageProblem(f"{what} is {value!r}, not a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageProblem(f"{what} is {value!r}, not a number")
    if value != value or abs(value) == float("inf"):
        raise UsageProblem(f"{what} is {value}, which is no finite number")
    return float(value)


def checked(spec: Spec) -> Spec:
    """`spec`, where its parts go together. Raises UsageProblem."""
    if spec.method not in METHODS:
        raise UsageProblem(
            f"{spec.method!r} is no method that is known here", f"one of {', '.join(METHODS)}"
        )
    if not spec.slices or not all(one.sources for one in spec.slices):
        raise UsageProblem("there are no models to merge", "localllm merge MODEL MODEL --method M")
    _check_parameters(spec)
    for one in spec.slices:
        _check_slice(spec, one)
    return spec


def _check_parameters(spec: Spec) -> None:
    known = PARAMETERS[spec.method]
    given = [spec.parameters, *(one.parameters for one in spec.slices)]
    given += [source.parameters for one in spec.slices for source in one.sources]
    for parameters in given:
        for name in parameters:
            if name not in known:
                raise UsageProblem(
                    f"{spec.method} has no parameter {name!r}", f"one of {', '.join(sorted(known))}"
                )


def _check_slice(spec: Spec, one: Slice) -> None:
    names = [source.model for source in one.sources]
    base = one.base or spec.base
    if len(set(names)) < len(names):
        raise UsageProblem(f"{names[0]} is merged with itself: a model is named twice in one slice")
    others = [name for name in names if name != base]
    if spec.method == "passthrough":
        if len(names) != 1:
            raise UsageProblem(
                f"passthrough takes one model a slice, not {len(names)}",
                "--layers MODEL=0-16 --layers OTHER=8-24, or slices in a configuration",
            )
    elif spec.method == "slerp":
        if (base is None and len(names) != 2) or len(others) != (2 if base is None else 1):
            raise UsageProblem(
                f"slerp goes between two models, and there are {len({*names, base or names[0]})}",
                "localllm merge MODEL MODEL --method slerp --t 0.5",
            )
    elif spec.method == "linear":
        if len(names) < 2:
            raise UsageProblem("one model alone is nothing to merge", "name two or more")
    elif base is None:
        raise UsageProblem(
            f"{spec.method} merges differences from a base, and none is named", "--base MODEL"
        )
    elif not others:
        raise UsageProblem("only the base is named: there is no difference to merge")
