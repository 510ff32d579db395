"""What a run made, as plain values for people, programs and the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from localllm.finetune.course import Course
from localllm.finetune.outcome.judge import Sample
from localllm.finetune.sampling import SampleAt
from localllm.finetune.scratch.baseline import Baseline

if TYPE_CHECKING:
    from localllm.registry import Model, Registry

KIND = "train"  # of the registry's measurements


@dataclass(frozen=True)
class Told:
    """The data. Sizes in bytes of text, tokens by the model's own vocabulary."""

    files: int
    n_documents: int
    n_units: int
    units: str  # what is kept back: documents, sections of them, conversations
    n_held: int
    train_bytes: int
    held_bytes: int
    left_bytes: int  # of text that the budget ends before
    train_tokens: int
    held_tokens: int
    n_dropped: int
    n_bad: int
    problems: tuple[str, ...]
    sha256: str

    @property
    def bytes_per_token(self) -> float:
        return self.train_bytes / max(1, self.train_tokens)


@dataclass(frozen=True)
class Planned:
    """The run as it was decided. Times in seconds, `tokens_per_s` by a trial."""

    n_vocab: int
    context: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    n_params: int
    has_k_rows: bool
    precision: str
    steps: int
    tokens_per_step: int
    tokens: int
    epochs: float
    tokens_per_param: float
    lr: float
    dropout: float
    optimizer: str
    tokens_per_s: float
    training_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Judged:
    """The held-out text by llama.cpp, from the file that is registered, and by torch on the same
    tokens. Losses in nats a token; `n_bytes` is the text of these tokens."""

    loss: float
    loss_torch: float
    n_tokens: int
    n_bytes: int
    perplexity: float
    bits_per_byte: float
    baselines: tuple[Baseline, ...]

    @property
    def is_worth_it(self) -> bool:
        """Whether it knows more than counting three tokens in a row."""
        return all(self.bits_per_byte < one.bits_per_byte for one in self.baselines)


@dataclass(frozen=True)
class Trained:
    """A model from scratch. `template` is the name of its chat template, "none" without one."""

    model: Model
    name: str
    reused: bool
    type: str
    file_bytes: int
    template: str
    data: Told
    plan: Planned
    learned: Course
    judged: Judged
    samples: tuple[Sample, ...]
    along: tuple[SampleAt, ...]
    losses: tuple[tuple[int, float], ...]  # step, training loss
    held_out: tuple[tuple[int, float], ...]
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """All but the model, for the registry."""
        from localllm.ui.sink import to_json

        values: dict[str, Any] = to_json({k: v for k, v in vars(self).items() if k != "model"})
        return values


@dataclass(frozen=True)
class DryRun:
    """What a run would be."""

    name: str
    template: str
    data: Told
    plan: Planned
    recipe: Mapping[str, Any]


def made_before(model: Model, registry: Registry) -> Trained | None:
    """The figures that were kept of `model`, None where there are none."""
    found = registry.measurements(model, KIND)
    if not found:
        return None
    v = dict(found[0].data)
    judged = dict(v["judged"])
    judged["baselines"] = tuple(Baseline(**one) for one in judged["baselines"])
    data = {**v["data"], "problems": tuple(v["data"]["problems"])}
    return Trained(
        model=model, name=model.name, reused=True, type=v["type"], file_bytes=model.size_bytes,
        template=v["template"], data=Told(**data), plan=Planned(**v["plan"]),
        learned=Course(**v["learned"]), judged=Judged(**judged),
        samples=tuple(Sample(**one) for one in v["samples"]),
        along=tuple(SampleAt(one["step"], Sample(**one["sample"])) for one in v["along"]),
        losses=tuple((int(s), float(x)) for s, x in v["losses"]),
        held_out=tuple((int(s), float(x)) for s, x in v["held_out"]), recipe=v["recipe"],
    )  # fmt: skip
