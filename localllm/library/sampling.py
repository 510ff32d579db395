"""How a model wants to be sampled where the user says nothing.

The GGUF's own `general.sampling.*` stands before the field's defaults, a preset's parameters (an
Ollama model's, a Modelfile's) before those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from localllm.errors import UsageProblem
from localllm.generation import Sampling
from localllm.library.presets import Preset
from localllm.registry import Model

_PREFIX = "general.sampling."
# llama.cpp's keys in a GGUF
_GGUF: Mapping[str, tuple[str, Callable[[float], Any]]] = {
    "temp": ("temperature", float),
    "top_k": ("top_k", int),
    "top_p": ("top_p", float),
    "min_p": ("min_p", float),
    "xtc_probability": ("xtc_probability", float),
    "xtc_threshold": ("xtc_threshold", float),
    "penalty_last_n": ("repeat_last_n", int),
    "penalty_repeat": ("repeat_penalty", float),
    "mirostat": ("mirostat", int),
    "mirostat_tau": ("mirostat_tau", float),
    "mirostat_eta": ("mirostat_eta", float),
}


def model_sampling(model: Model, metadata: Mapping[str, str] | None = None) -> Sampling:
    """The defaults that came with the model; `metadata` are its GGUF's keys.

    A value that is no number, or out of range, is left out: it is not the user's to mend.
    """
    found = _of_gguf(metadata or {}) | _of_preset(model)
    return replace(Sampling(), **{name: v for name, v in found.items() if _sound(name, v)})


def _of_gguf(metadata: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, (name, kind) in _GGUF.items():
        number = _number(metadata.get(_PREFIX + key, ""))
        if number is not None:
            found[name] = kind(number)
    return found


def _of_preset(model: Model) -> dict[str, Any]:
    parameters = model.extras.get("parameters")
    if not isinstance(parameters, Mapping):
        return {}
    sampling, plain = Preset.of(model).sampling, Sampling()
    names = [f.name for f in fields(Sampling)]
    given = {n for n in names if n in parameters or getattr(sampling, n) != getattr(plain, n)}
    # a value that Preset could not read is the default there, and not given
    return {
        name: getattr(sampling, name)
        for name in given
        if not isinstance(parameters.get(name), str) or name == "stop"
    }


def _sound(name: str, value: Any) -> bool:
    from localllm.engine.sampling import check_sampling

    try:
        check_sampling(replace(Sampling(), **{name: value}))
    except UsageProblem:
        return False
    return True


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
