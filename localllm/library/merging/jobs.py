"""From a merge's specification to what is done for each tensor of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from localllm.errors import UsageProblem
from localllm.library.merging.families import CONSTANT, Place
from localllm.library.merging.methods import WITH_BASE, Recipe
from localllm.library.merging.spec import NORMALIZES, Reader, Slice, Source, Spec
from localllm.library.merging.tensors import TensorSource


@dataclass(frozen=True)
class Input:
    """A tensor of the model that the specification calls `model`."""

    model: str
    tensor: str


@dataclass(frozen=True)
class Job:
    """One tensor of the result. `constant`: the (first) input's bytes as they are."""

    name: str
    inputs: tuple[Input, ...]
    recipe: Recipe
    constant: bool

    @property
    def reference(self) -> int:
        """The input that the result is a change of: the base, else the first."""
        return self.recipe.base or 0


@dataclass(frozen=True)
class Layered:
    """A model as the planner sees it. `tied` names the tensor that stands for an output that the
    model does not have."""

    source: TensorSource
    n_layers: int
    places: Mapping[str, Place]
    aliases: Mapping[str, Sequence[str]]
    tied: Mapping[str, str]

    def tensor(self, name: str) -> str | None:
        """The tensor that `name` is in this model."""
        if name in self.places:
            return name
        stand_in = self.tied.get(name)
        return stand_in if stand_in in self.places else None


@dataclass(frozen=True)
class Planned:
    """`layers`: for each layer of the result, the layer and model its (reference's) tensors come
    from."""

    jobs: tuple[Job, ...]
    layers: tuple[tuple[str, int], ...]


def plan_jobs(
    spec: Spec, models: Mapping[str, Layered], usable: Callable[[Layered, str], bool]
) -> Planned:
    """Every tensor of the result, in order: those before the layers, the layers, those after.

    `usable` says whether a tensor holds weights that can be computed with. Raises UsageProblem
    for ranges, tensors or shapes that do not go together.
    """
    slices = [_completed(spec, one, models) for one in spec.slices]
    jobs = list(_outside(spec, slices[0], models, usable, "before"))
    layers: list[tuple[str, int]] = []
    for one in slices:
        count = _count(one)
        for i in range(count):
            t = i / (count - 1) if count > 1 else 1.0
            jobs += _layer(spec, one, i, t, len(layers), models, usable)
            lead = one.sources[_lead(spec, one)]
            layers.append((lead.model, (lead.first or 0) + i))
    jobs += _outside(spec, slices[-1], models, usable, "after")
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        raise UsageProblem("two tensors of the result have one name: the models are of two kinds")
    return Planned(tuple(jobs), tuple(layers))


def _completed(spec: Spec, one: Slice, models: Mapping[str, Layered]) -> Slice:
    """The slice with its ranges, and its base among the sources."""
    sources = []
    for source in one.sources:
        n = models[source.model].n_layers
        first, last = source.first or 0, n if source.last is None else source.last
        if last > n:
            raise UsageProblem(
                f"{source.model} has {n} layers; {first} to {last} were asked for",
                f"a range within 0 to {n}",
            )
        sources.append(replace(source, first=first, last=last))
    base = one.base or spec.base
    if spec.method in WITH_BASE and base is not None and base not in {s.model for s in sources}:
        lead = sources[0]
        n = models[base].n_layers
        if not spec.stacked:
            sources.append(Source(base, 0, n))
        elif (lead.last or 0) <= n:
            sources.append(Source(base, lead.first, lead.last))
        else:
            raise UsageProblem(f"{base} has {n} layers, fewer than a slice of {lead.model}")
    done = replace(one, sources=tuple(sources), base=base)
    _count(done)
    return done


def _count(one: Slice) -> int:
    """How many layers a slice has. Raises UsageProblem where its sources differ."""
    counts = {s.model: (s.last or 0) - (s.first or 0) for s in one.sources}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} {n}" for name, n in counts.items())
        raise UsageProblem(f"models of different depth cannot be merged layer by layer: {said}")
    return next(iter(counts.values()))


def _lead(spec: Spec, one: Slice) -> int:
    """The source that names and types are taken from: the base, else the first."""
    names = [s.model for s in one.sources]
    return names.index(one.base) if one.base in names else 0


def _outside(
    spec: Spec,
    one: Slice,
    models: Mapping[str, Layered],
    usable: Callable[[Layered, str], bool],
    part: str,
) -> Iterator[Job]:
    """Jobs of the tensors that belong to no layer."""
    ordered = [one.sources[_lead(spec, one)], *one.sources]
    names = [
        name
        for source in ordered
        for name, place in models[source.model].places.items()
        if place.part == part
    ]
    for name in dict.fromkeys(names):
        found = [(source, models[source.model].tensor(name)) for source in one.sources]
        # outside the layers a gradient has its first value, as in mergekit 0.1.5
        yield _job(spec, one, 0.0, name, found, models, usable)


def _layer(
    spec: Spec,
    one: Slice,
    i: int,
    t: float,
    out: int,
    models: Mapping[str, Layered],
    usable: Callable[[Layered, str], bool],
) -> Iterator[Job]:
    ordered = [one.sources[_lead(spec, one)], *one.sources]
    places = [
        place
        for source in ordered
        for place in models[source.model].places.values()
        if place.part == "layer" and place.layer == (source.first or 0) + i
    ]
    stems = dict.fromkeys((place.stem, place.rest) for place in places)
    if not stems:
        raise UsageProblem(
            f"{ordered[0].model} has no tensors of layer {(ordered[0].first or 0) + i}"
        )
    for stem, rest in stems:
        found = []
        for source in one.sources:
            name = f"{stem}{(source.first or 0) + i}{rest}"
            found.append((source, models[source.model].tensor(name)))
        yield _job(spec, one, t, f"{stem}{out}{rest}", found, models, usable)


def _job(
    spec: Spec,
    one: Slice,
    t: float,
    name: str,
    found: Sequence[tuple[Source, str | None]],
    models: Mapping[str, Layered],
    usable: Callable[[Layered, str], bool],
) -> Job:
    inputs = []
    for source, tensor in found:
        if tensor is None:
            have = next(s.model for s, other in found if other is not None)
            raise UsageProblem(
                f"{source.model} and {have} are built differently: only the latter has {name}"
            )
        inputs.append(Input(source.model, tensor))
    _check_shapes(name, inputs, models)
    lead = _lead(spec, one)
    constant = bool(CONSTANT.fullmatch(name)) or not usable(
        models[inputs[lead].model], inputs[lead].tensor
    )
    if constant:
        return Job(name, (inputs[lead],), Recipe("passthrough"), True)
    aliases = models[inputs[lead].model].aliases.get(name, ())
    reader = Reader(spec, one, t, (name, *aliases))
    return Job(name, tuple(inputs), _recipe(spec, one, reader, name, inputs, models), False)


def _check_shapes(name: str, inputs: Sequence[Input], models: Mapping[str, Layered]) -> None:
    shapes = [models[i.model].source.layout(i.tensor).shape for i in inputs]
    for shape, own in zip(shapes, inputs, strict=True):
        if shape != shapes[0]:
            raise UsageProblem(
                f"{inputs[0].model} and {own.model} are of different sizes: {name} is "
                f"{'x'.join(map(str, shapes[0]))} and {'x'.join(map(str, shape))}"
            )


def _recipe(
    spec: Spec,
    one: Slice,
    reader: Reader,
    name: str,
    inputs: Sequence[Input],
    models: Mapping[str, Layered],
) -> Recipe:
    method = spec.method
    names = [s.model for s in one.sources]
    base = names.index(one.base) if one.base in names and method in WITH_BASE else None
    weights, densities = [], []
    for i, source in enumerate(one.sources):
        aliases = models[source.model].aliases.get(inputs[i].tensor, ())
        own = replace(reader, names=(inputs[i].tensor, *aliases))
        unused = i == base
        weighs = method not in ("slerp", "passthrough") and not unused
        weights.append(own.number("weight", source, None) if weighs else 0.0)
        thins = method in ("ties", "dare_ties", "dare_linear") and not unused
        densities.append(_density(own, source) if thins else 1.0)
    scale = None
    if method == "passthrough" and (given := reader.value("scale", one.sources[0])) is not None:
        scale = reader.number("scale", one.sources[0], float(given))
    return Recipe(
        method=method,
        base=base,
        weights=tuple(weights),
        densities=tuple(densities),
        t=reader.number("t", None, None) if method == "slerp" else 0.0,
        scale=scale,
        normalize=reader.flag("normalize", method in NORMALIZES),
        rescale=reader.flag("rescale", True),
        factor=reader.number("lambda", None, 1.0),
        seed=spec.seed,
        tensor=name,
    )


def _density(reader: Reader, source: Source) -> float:
    found = reader.number("density", source, 1.0)
    if not 0 <= found <= 1:
        raise UsageProblem(f"a density is a share from 0 to 1, not {found:g}")
    return found
