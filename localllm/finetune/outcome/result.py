"""What a run gave, as plain values for people, programs and the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from localllm.finetune.course import Course
from localllm.finetune.outcome.judge import Judged, Sample
from localllm.finetune.sampling import SampleAt

if TYPE_CHECKING:
    from localllm.finetune.training.records import History
    from localllm.registry import Model, Registry

KIND = "finetune"  # of the registry's measurements
_MOST_POINTS = 400


@dataclass(frozen=True)
class BeforeAfter:
    """One held-out judgement of llama.cpp without and with what was learned. `preferred` is the
    share of preference pairs whose chosen answer is the likelier one."""

    before: Judged
    after: Judged
    preferred_before: float | None = None
    preferred_after: float | None = None

    @property
    def is_better(self) -> bool:
        """Of preferences: more pairs are the right way round, or all are; the chosen answers
        themselves often get less likely. Else: a lower loss."""
        if self.preferred_before is not None and self.preferred_after is not None:
            return self.preferred_after > self.preferred_before or self.preferred_after == 1.0
        return self.after.loss < self.before.loss


@dataclass(frozen=True)
class SamplePair:
    """One prompt, answered by llama.cpp before and after."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class Learned(Course):
    """How the training went, and how it was computed."""

    targets: int
    precision: str
    base_weights: str
    pack_tokens: int
    checkpointing: bool
    shards: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Tuned:
    """What was made. `kind` is "adapter" or "model"; `judged` is None where nothing was held
    out. `n_params` counts the numbers that learned."""

    model: Model
    name: str
    base: str
    kind: str
    method: str
    objective: str
    reused: bool
    n_params: int
    file_bytes: int
    n_examples: int
    n_held_out: int
    template: str
    learned: Learned
    judged: BeforeAfter | None
    samples: tuple[SamplePair, ...]
    along: tuple[SampleAt, ...]
    losses: tuple[tuple[int, float], ...]  # step, training loss
    held_out: tuple[tuple[int, float], ...]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    merged: Mapping[str, Any] | None = None

    def figures(self) -> dict[str, Any]:
        """All but the model, for the registry."""
        from localllm.ui.sink import to_json

        values: dict[str, Any] = to_json({k: v for k, v in vars(self).items() if k != "model"})
        return values


def curves(
    history: History,
) -> tuple[tuple[tuple[int, float], ...], tuple[tuple[int, float], ...]]:
    """The losses of training and of the held-out examples; of very many steps some."""
    every = max(1, len(history.steps) // _MOST_POINTS)
    return (
        tuple((one.step, one.loss) for one in history.steps[::every]),
        tuple((one.step, one.loss) for one in history.evals),
    )


def made_before(model: Model, base: Model, registry: Registry) -> Tuned:
    """The figures that were kept of `model`, which need not be made again."""
    found = registry.measurements(model, KIND)
    values = dict(found[0].data) if found else {}
    judged = values.get("judged")
    return Tuned(
        model=model,
        name=model.name,
        base=base.name,
        kind="adapter" if model.format == "adapter" else "model",
        method=values.get("method", ""),
        objective=values.get("objective", ""),
        reused=True,
        n_params=values.get("n_params", 0),
        file_bytes=model.size_bytes,
        n_examples=values.get("n_examples", 0),
        n_held_out=values.get("n_held_out", 0),
        template=values.get("template", ""),
        learned=Learned(**values["learned"]) if "learned" in values else _unknown(),
        judged=None if not judged else BeforeAfter(
            _judged(judged["before"]), _judged(judged["after"]),
            judged["preferred_before"], judged["preferred_after"],
        ),
        samples=tuple(SamplePair(**one) for one in values.get("samples", ())),
        along=tuple(
            SampleAt(one["step"], Sample(**one["sample"])) for one in values.get("along", ())
        ),
        losses=tuple((int(s), float(v)) for s, v in values.get("losses", ())),
        held_out=tuple((int(s), float(v)) for s, v in values.get("held_out", ())),
        recipe=values.get("recipe", {}),
        merged=values.get("merged"),
    )  # fmt: skip


def _judged(value: Mapping[str, Any]) -> Judged:
    return Judged(value["loss"], value["n_tokens"], tuple(value["of_examples"]))


def _unknown() -> Learned:
    course = Course(0, 0, "", 0, None, None, None, None, 0, 0.0, 0.0, 0)
    return Learned(**vars(course), targets=0, precision="", base_weights="", pack_tokens=0,
                   checkpointing=False)  # fmt: skip
