"""What a model brings to a conversation beside its weights."""

from __future__ import annotations

from collections.abc import Mapping

from localllm.chat.conversation import Entry
from localllm.library.presets import Preset
from localllm.registry import Model


def preset_keep(model: Model | None) -> int | None:
    """Ollama's num_keep: tokens at the beginning that are never dropped."""
    parameters = model.extras.get("parameters") if model is not None else None
    value = parameters.get("num_keep") if isinstance(parameters, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= -1 else None


def first_entries(model: Model | None, system: str | None) -> list[Entry]:
    """What stands before the first question: the user's system message, else the model's, and the
    messages of its preset. None is somebody elsewhere, of whom nothing is known."""
    if model is None:
        return [Entry("system", system)] if system and system.strip() else []
    preset = Preset.of(model)
    text = system if system is not None else preset.system
    first = [Entry("system", text)] if text and text.strip() else []
    rest = [m for m in preset.messages if m.role in ("user", "assistant")]
    return first + [Entry(message.role, message.content) for message in rest]
