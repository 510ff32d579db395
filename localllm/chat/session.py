"""A model opened for conversation, with the defaults it came with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.generation import Message, Sampling
from localllm.registry import Model
from localllm.ui import Progress

if TYPE_CHECKING:
    from localllm.engine.generator import LocalGenerator
    from localllm.placement import Opened, PlanOptions


@dataclass
class Session:
    """A loaded model that answers. Close it when done."""

    model: Model
    generator: LocalGenerator
    opened: Opened
    tuned: bool = False  # loaded as `bench --auto` found best

    @property
    def n_ctx(self) -> int:
        return self.opened.context.n_ctx_seq

    @property
    def load_s(self) -> float:
        return self.opened.model.load_s

    @property
    def where(self) -> str:
        """Where the layers are, as a sentence for people."""
        placed = self.opened.placed
        parts = [f"{n} of {placed.n_layers} layers on {name}" for name, n in placed.devices]
        tuned = ", as bench --auto found best" if self.tuned else ""
        return f"{' and '.join(parts)}, context {self.n_ctx}{tuned}"

    def close(self) -> None:
        self.generator.close()
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
) -> Session:
    """Load `model` by its plan, with the adapter it came with (an Ollama model's) and the
    user's. What `bench --auto` found best here is used for all of `options` but the fields that
    the user has `said`. Raises what `open_model` raises."""
    from localllm.engine.adapter import Attached, LoraAdapter, attach
    from localllm.engine.generator import LocalGenerator
    from localllm.engine.options import ContextOptions
    from localllm.library.defaults import tuned
    from localllm.placement import open_model, this_machine
    from localllm.placement.here import look

    hardware, context = look(), ContextOptions(n_threads=threads or 0)
    found = tuned(model, hardware, options, context, said)
    options, context = found or (options, context)
    with progress.bytes(f"load {model.name}", model.size_bytes) as advance:
        opened = open_model(
            model.path,
            options,
            require_gpu=require_gpu,
            force=force,
            target=this_machine(hardware),
            context=context,
            advance=advance,
        )
    try:
        adapters = (*((f.path, 1.0) for f in model.with_role("adapter")), *adapters)
        if adapters:
            loaded = [Attached(LoraAdapter(opened.model, p), scale) for p, scale in adapters]
            attach(opened.context, loaded)
        return Session(model, LocalGenerator(opened.context, model.name), opened, found is not None)
    except BaseException:
        opened.close()
        raise


def first_messages(model: Model, system: str | None) -> list[Message]:
    """What stands before the first question: the user's system message, else the model's."""
    text = system if system is not None else model.extras.get("system")
    return [Message("system", text)] if isinstance(text, str) and text.strip() else []


# Ollama's parameter names and the fields they set
_PARAMETERS: Mapping[str, tuple[str, type]] = {
    "temperature": ("temperature", float),
    "top_k": ("top_k", int),
    "top_p": ("top_p", float),
    "min_p": ("min_p", float),
    "typical_p": ("typical_p", float),
    "repeat_penalty": ("repeat_penalty", float),
    "repeat_last_n": ("repeat_last_n", int),
    "presence_penalty": ("presence_penalty", float),
    "frequency_penalty": ("frequency_penalty", float),
    "seed": ("seed", int),
}


def model_sampling(model: Model) -> Sampling:
    """The defaults that came with the model (an Ollama model's parameters), else the field's.

    A value that is no number is left out: it is not the user's to mend.
    """
    parameters = model.extras.get("parameters")
    if not isinstance(parameters, Mapping):
        return Sampling()
    found: dict[str, Any] = {}
    for key, (field, kind) in _PARAMETERS.items():
        value = parameters.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[field] = kind(value)
    stop = parameters.get("stop")
    stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    found["stop"] = tuple(s for s in stops if isinstance(s, str) and s)
    return replace(Sampling(), **found)
