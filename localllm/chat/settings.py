"""What a user may set of a conversation: by options before it, by /set during it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from localllm.errors import UsageProblem
from localllm.generation import Sampling

Thinking = Literal["auto", "show", "hide", "off"]
Overflow = Literal["stop", "shift", "summarize"]

# Names of other programs for ours
_ALIASES = {
    "temp": "temperature", "num_predict": "max_tokens", "n_predict": "max_tokens",
    "num_keep": "keep", "n_keep": "keep", "think": "thinking", "penalty_repeat": "repeat_penalty",
    "penalty_last_n": "repeat_last_n", "dynatemp_exp": "dynatemp_exponent",
}  # fmt: skip
_NOT_SET = ("special", "grammar", "grammar_triggers")
_WORDS = {"true": True, "on": True, "yes": True, "1": True,
          "false": False, "off": False, "no": False, "0": False}  # fmt: skip


@dataclass
class ChatSettings:
    """How a conversation is held. `given` are the sampling values the user said, which win over
    those of the model. `keep` tokens at its beginning are never dropped; -1 is the first turn."""

    given: dict[str, Any] = field(default_factory=dict)
    thinking: Thinking = "auto"
    overflow: Overflow = "stop"
    keep: int = 0
    stats: bool = False
    markdown: bool = True

    def __post_init__(self) -> None:
        _one_of("thinking", self.thinking, get_args(Thinking))
        _one_of("overflow", self.overflow, get_args(Overflow))
        if self.keep < -1:
            raise UsageProblem(f"keep {self.keep} is neither -1 nor a number of tokens")

    def sampling(self, base: Sampling) -> Sampling:
        """`base`, the model's own, with what the user said. Stop strings are added."""
        values = dict(self.given)
        if "stop" in values:
            values["stop"] = (*base.stop, *values["stop"])
        return replace(base, **values)

    def set(self, name: str, text: str) -> str:
        """Set `name` from its text; the name as it is here. Raises UsageProblem."""
        from localllm.engine.sampling import check_sampling

        key = name.replace("-", "_").lower()
        key = _ALIASES.get(key, key)
        if key in _OWN:
            values = {f: getattr(self, f) for f in _OWN} | {key: _read(_OWN[key], key, text)}
            ChatSettings(self.given, **values)  # checks them
            setattr(self, key, values[key])
        elif key in SAMPLING_NAMES:
            given = self.given | {key: _read(_KINDS[key], key, text)}
            check_sampling(replace(Sampling(), **given))
            self.given = given
        else:
            raise _unknown(name)
        return key

    def unset(self, name: str) -> None:
        """Back to the model's own value. Raises UsageProblem for what is no sampling value."""
        key = _ALIASES.get(name, name)
        if key not in SAMPLING_NAMES:
            raise _unknown(name)
        self.given.pop(key, None)

    def shown(self, base: Sampling) -> Mapping[str, Any]:
        """Every value as it counts now, by name."""
        sampling = self.sampling(base)
        own = {name: getattr(self, name) for name in _OWN}
        return own | {name: getattr(sampling, name) for name in SAMPLING_NAMES}


SAMPLING_NAMES = tuple(f.name for f in fields(Sampling) if f.name not in _NOT_SET)
_KINDS: dict[str, str] = {f.name: str(f.type) for f in fields(Sampling)}
_OWN: dict[str, str] = {
    "thinking": "str", "overflow": "str", "keep": "int", "stats": "bool", "markdown": "bool",
}  # fmt: skip
NAMES = (*_OWN, *SAMPLING_NAMES)


def _read(kind: str, name: str, text: str) -> Any:
    try:
        if kind.startswith("tuple"):
            return _texts(text)
        if kind.startswith("int"):
            return int(text)
        if kind.startswith("float"):
            return float(text)
        return _WORDS[text.lower()] if kind == "bool" else text.lower()
    except (ValueError, KeyError):
        raise UsageProblem(f"{text!r} cannot be the value of {name}") from None


def _texts(text: str) -> tuple[str, ...]:
    """One text as it stands, or a JSON list of them."""
    if text.startswith("["):
        value = json.loads(text)
        if not all(isinstance(item, str) for item in value):
            raise ValueError
        return tuple(value)
    return (json.loads(text),) if text.startswith('"') else (text,)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageProblem(f"{name} {value!r} is none of {', '.join(allowed)}")


def _unknown(name: str) -> UsageProblem:
    near = difflib.get_close_matches(name, [*NAMES, *_ALIASES], n=1)
    return UsageProblem(
        f"there is no setting {name!r}" + (f"; near: {near[0]}" if near else ""), "/set"
    )
