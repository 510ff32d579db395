"""What models need and whether they fit, here or on GPUs that are not here. No printing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import EngineError, UsageProblem
from localllm.formats.gguf import GGUFHeader, GGUFModel
from localllm.hardware import Hardware, parse_gpu_spec, parse_size
from localllm.placement import (
    Advice,
    Plan,
    PlanOptions,
    Target,
    machine_for,
    plan_for,
    target_on_paper,
    this_machine,
    unused_advice,
    with_bandwidth,
)

HERE = "this machine"


@dataclass(frozen=True)
class Subject:
    """A model to look at. `path` None: it is not downloaded, only its header is known."""

    name: str
    header: GGUFHeader | GGUFModel
    path: Path | None = None


@dataclass(frozen=True)
class Place:
    """Somewhere to run it: this machine, or one on paper under the name the user gave it."""

    name: str
    target: Target


@dataclass(frozen=True)
class Fit:
    """One model in one place.

    `unasked` says why the compute buffers are arithmetic although the place is this machine:
    what llama.cpp answered when it was asked (an architecture that it does not know).
    """

    model: str
    place: str
    architecture: str | None
    file_type: str | None
    n_params: int
    bits_per_weight: float | None
    plan: Plan
    unasked: str | None = None


@dataclass(frozen=True)
class FitReport:
    """Models in the order given, each in every place. `advice` is about this machine."""

    fits: tuple[Fit, ...]
    advice: tuple[Advice, ...]

    @property
    def all_run(self) -> bool:
        """Whether every model runs in every place, however slowly."""
        return all(fit.plan.runs for fit in self.fits)


def places(
    gpus: Sequence[str] = (), vram: Sequence[str] = (), hardware: Hardware | None = None
) -> tuple[Place, ...]:
    """Where to look: one place for each `--gpu` and `--vram`, this machine without any.

    A text is one machine: `RTX 4060 Ti 16 GB:3`, `RTX 3090 + RTX 3060 12 GB`, `24GiB`,
    `24GiB:2`. On paper the host is this machine's. Raises UsageProblem.
    """
    if not gpus and not vram:
        return (Place(HERE, this_machine(hardware)),)
    from localllm.placement.here import look

    hardware = hardware or look()
    on_paper = [
        Place(text, target_on_paper(hardware, [parse_gpu_spec(p) for p in _parts(text)]))
        for text in gpus
    ]
    bare = [Place(text, target_on_paper(hardware, vram_bytes=_sizes(text))) for text in vram]
    return (*on_paper, *bare)


def fit(
    subjects: Sequence[Subject],
    where: Sequence[Place],
    options: PlanOptions,
    *,
    bandwidth: bool = True,
) -> FitReport:
    """Plan every subject in every place.

    On this machine llama.cpp's own dry run gives the compute buffers (about 0.5 s a model).
    With `bandwidth` main memory is measured once (0.6 s) where a speed depends on it.
    Raises DamagedFile and UsageProblem (cache types that a model cannot have).
    """
    found = []
    targets = {place.name: place.target for place in where}
    for subject in subjects:
        for name, target in targets.items():
            if bandwidth and plan_for(subject.header, target, options).host.n_layers:
                targets[name] = target = with_bandwidth(target)
            found.append(_fit(subject, Place(name, target), options))
    unused = next((target.unused for target in targets.values() if target.here), ())
    return FitReport(tuple(found), tuple(unused_advice(gpu) for gpu in unused))


def _fit(subject: Subject, place: Place, options: PlanOptions) -> Fit:
    header, unasked = subject.header, None
    plan = plan_for(header, place.target, options)
    if place.target.here and not _hopeless(plan):
        try:
            with machine_for(header, subject.path) as machine:
                plan = plan_for(header, place.target, options, machine)
        except EngineError as error:
            unasked = error.message
    return Fit(
        model=subject.name,
        place=place.name,
        architecture=header.architecture,
        file_type=header.file_type.name if header.file_type else None,
        n_params=header.n_params,
        bits_per_weight=header.bits_per_weight,
        plan=plan,
        unasked=unasked,
    )


def _hopeless(plan: Plan) -> bool:
    """Whether no better figure for the buffers could make it fit. A dry run allocates what
    llama.cpp keeps for each cell, so a context of millions is not tried for nothing."""
    return plan.missing_bytes > plan.compute_error * plan.compute_bytes


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(" + ")]
    if not all(parts):
        raise UsageProblem(f"{text!r} names no GPU", '--gpu "RTX 4060 Ti 16 GB:3"')
    return parts


def _sizes(text: str) -> list[int]:
    """`24GiB:2` and `24GiB + 12GiB` -> bytes of each card."""
    sizes = []
    for part in _parts(text):
        size, _, count = part.partition(":")
        if count and not (count.strip().isdigit() and 1 <= int(count) <= 16):
            raise UsageProblem(f"{text!r}: {count!r} is no number of cards", "--vram 24GiB:2")
        sizes += [parse_size(size)] * int(count or 1)
    return sizes
