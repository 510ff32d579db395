"""A model opened for conversation, with the defaults it came with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from localllm.chat.prompting import Prompting
from localllm.closing import Closing
from localllm.errors import LocalLLMError, UsageProblem
from localllm.generation import Sampling
from localllm.library.presets import Preset
from localllm.library.sampling import model_sampling
from localllm.registry import Model
from localllm.ui import Progress

if TYPE_CHECKING:
    from localllm.engine.generator import LocalGenerator
    from localllm.placement import Opened, PlanOptions, Target

__all__ = ["LoadWishes", "Session", "model_sampling", "open_session"]


@dataclass(frozen=True)
class LoadWishes:
    """How the user wants models loaded: `plan` but for the fields not `said`, which a model's own
    best (bench --auto) decides. `adapters` are (GGUF path, scale); `draft` is a model that guesses
    tokens ahead, "ngram" takes them from the text; `mmproj` sees images for the model and
    `template` is its chat template in Jinja, None are those it came with."""

    plan: PlanOptions
    threads: int | None = None
    require_gpu: bool = False
    force: bool = False
    adapters: tuple[tuple[Path, float], ...] = ()
    said: frozenset[str] = frozenset()
    draft: Model | Literal["ngram"] | None = None
    mmproj: Path | None = None
    template: str | None = None


@dataclass
class Session(Closing):
    """A loaded model that answers. Close it when done."""

    model: Model
    generator: LocalGenerator
    opened: Opened
    tuned: bool = False  # loaded as `bench --auto` found best
    drafting: Opened | None = None
    mmproj: Path | None = None

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def n_ctx(self) -> int:
        return self.opened.context.n_ctx_seq

    @property
    def load_s(self) -> float:
        return self.opened.model.load_s

    @cached_property
    def prompting(self) -> Prompting:
        return Prompting(self)

    @cached_property
    def sampling(self) -> Sampling:
        """The model's own defaults."""
        return model_sampling(self.model, self.opened.model.metadata())

    @property
    def where(self) -> str:
        """Where the layers are, as a sentence for people."""
        placed = self.opened.placed
        parts = [f"{n} of {placed.n_layers} layers on {name}" for name, n in placed.devices]
        tuned = ", as bench --auto found best" if self.tuned else ""
        draft = f", drafts by {self.drafting.model.path.stem}" if self.drafting else ""
        return f"{' and '.join(parts)}, context {self.n_ctx}{tuned}{draft}"

    def require_images(self) -> None:
        """Load what sees images, once. Raises UsageProblem for a model without, and what Vision
        raises."""
        from localllm.engine.vision.vision import Vision
        from localllm.placement import this_machine

        if self.generator.vision is not None:
            return
        if self.mmproj is None:
            raise UsageProblem(f"{self.model.name} sees no images", "start with its --mmproj FILE")
        _, gpu = beside_mmproj(this_machine(), self.mmproj)
        n_threads = self.opened.context.n_threads
        self.generator.vision = Vision(
            self.opened.model, self.mmproj, use_gpu=gpu, n_threads=n_threads
        )

    def close(self) -> None:
        self.generator.close()
        if self.drafting is not None:
            self.drafting.close()
        self.opened.close()


def open_session(
    model: Model,
    options: PlanOptions,
    progress: Progress,
    *,
    threads: int | None = None,
    require_gpu: bool = False,
    force: bool = False,
    adapters: tuple[tuple[Path, float], ...] = (),
    said: Collection[str] = (),
    draft: Model | None = None,
) -> Session:
    """Load `model` by its plan, with the adapter it came with (an Ollama model's) and the
    user's. What `bench --auto` found best here is used for all of `options` but the fields that
    the user has `said`. A `draft` is planned in what memory is left. Raises what `open_model`
    raises, UsageProblem for a draft with another vocabulary."""
    wishes = LoadWishes(options, threads, require_gpu, force, adapters, frozenset(said), draft)
    return open_wished(model, wishes, progress)


def open_wished(model: Model, wishes: LoadWishes, progress: Progress) -> Session:
    """The same, from all that is wished in one value."""
    drafting: Opened | None = None
    if isinstance(wishes.draft, Model):
        opened, drafting, tuned = _open_pair(model, wishes.draft, wishes, progress)
    else:
        opened, tuned = _open(model, wishes, progress)
    try:
        _attach(opened, model, wishes.adapters)
        generator = _generator(model, opened, drafting, wishes)
        return Session(model, generator, opened, tuned, drafting, mmproj_of(model, wishes))
    except BaseException:
        if drafting is not None:
            drafting.close()
        opened.close()
        raise


def _open(model: Model, wishes: LoadWishes, progress: Progress) -> tuple[Opened, bool]:
    from localllm.placement import open_model

    how, tuned = _how(model, wishes)
    with progress.bytes(f"load {model.name}", model.size_bytes) as advance:
        return open_model(model.path, advance=advance, **how), tuned


def _open_pair(
    model: Model, draft: Model, wishes: LoadWishes, progress: Progress
) -> tuple[Opened, Opened, bool]:
    """Planned in one go: alone each would take the room that the other needs."""
    from localllm.placement import open_with_draft

    how, tuned = _how(model, wishes)
    n_bytes = model.size_bytes + draft.size_bytes
    with progress.bytes(f"load {model.name} and {draft.name}", n_bytes) as advance:
        pair = open_with_draft(model.path, draft.path, advance=advance, **how)
    return pair.main, pair.draft, tuned


def mmproj_of(model: Model, wishes: LoadWishes) -> Path | None:
    """What would see images: the user's, or the one that the model came with."""
    return wishes.mmproj or next((f.path for f in model.with_role("mmproj")), None)


def beside_mmproj(target: Target, mmproj: Path | None) -> tuple[Target, bool]:
    """`target` with the room that a projector takes left free, and whether it goes to the GPU.
    Raises FileGone, DamagedFile, EngineError for a file that is none."""
    from localllm.placement import beside_projector, projector_need

    return (target, False) if mmproj is None else beside_projector(target, projector_need(mmproj))


def target_for(model: Model, wishes: LoadWishes, target: Target) -> Target:
    """What of `target` is left for the text model: its projector is loaded with the first image,
    and must find its room then. One that the model came with and that is damaged says so then."""
    mmproj = mmproj_of(model, wishes)
    try:
        return beside_mmproj(target, mmproj)[0]
    except LocalLLMError:
        if wishes.mmproj is not None:
            raise
        return target


def wished_plan(model: Model, wishes: LoadWishes) -> PlanOptions:
    """With the context of the model's Modelfile (num_ctx) where the user said none."""
    plan = wishes.plan
    return replace(plan, n_ctx=Preset.of(model).n_ctx) if plan.n_ctx is None else plan


def _how(model: Model, wishes: LoadWishes) -> tuple[dict[str, Any], bool]:
    """What `open_model` is told, and whether `bench --auto` had found it."""
    from localllm.engine.options import ContextOptions
    from localllm.library.defaults import tuned
    from localllm.placement import this_machine
    from localllm.placement.here import look

    hardware, context = look(), ContextOptions(n_threads=wishes.threads or 0)
    plan = wished_plan(model, wishes)
    found = tuned(model, hardware, plan, context, wishes.said)
    options, context = found or (plan, context)
    how = {
        "options": options, "require_gpu": wishes.require_gpu, "force": wishes.force,
        "target": target_for(model, wishes, this_machine(hardware)), "context": context,
    }  # fmt: skip
    return how, found is not None


def _attach(opened: Opened, model: Model, adapters: tuple[tuple[Path, float], ...]) -> None:
    from localllm.engine.adapter import attach_files

    if wanted := (*model.attached, *adapters):
        attach_files(opened.context, wanted)


def _template_of_adapters(opened: Opened) -> str | None:
    """What the first adapter that brings a chat template was tuned with."""
    from localllm.engine.adapter import attached

    found = (one.adapter.metadata() for one in attached(opened.context) if one.scale)
    return next(
        (m["tokenizer.chat_template"] for m in found if "tokenizer.chat_template" in m), None
    )


def _generator(
    model: Model, opened: Opened, drafting: Opened | None, wishes: LoadWishes
) -> LocalGenerator:
    from localllm.engine.template import ChatTemplate

    has_own = opened.model.meta("tokenizer.chat_template") is not None
    source = wishes.template or Preset.of(model, has_template=has_own).template
    if source is None and not has_own:
        source = _template_of_adapters(opened)
    chat_template = ChatTemplate.of(opened.model, source)
    if wishes.draft is None:
        from localllm.engine.generator import LocalGenerator

        return LocalGenerator(opened.context, model.name, chat_template)
    from localllm.engine.draft.draft import DraftGenerator

    draft_context = drafting.context if drafting else None
    return DraftGenerator(opened.context, draft_context, model.name, chat_template)
