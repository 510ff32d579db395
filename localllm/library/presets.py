"""What a registered model brings beside its weights: the layers of an Ollama model, or what a
Modelfile said.

The registry keeps them in `Model.extras`: `parameters` under Ollama's names, `system`,
`messages`, `license`, `template` as it was written, and `chat_template`, which is that template
as Jinja where it has to stand in place of the GGUF's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from localllm.errors import UsageProblem
from localllm.generation import Message, Sampling
from localllm.modelfile import PARAMETERS, Modelfile, chat_template
from localllm.registry import Model

INHERITED = (
    "parameters", "system", "messages", "license", "template", "chat_template", "renderer",
    "parser",
)  # fmt: skip
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Preset:
    """`template` is Jinja in place of the model's own; None where the model's own is right."""

    sampling: Sampling
    system: str | None = None
    messages: tuple[Message, ...] = ()
    template: str | None = None
    n_ctx: int | None = None

    @classmethod
    def of(cls, model: Model, *, has_template: bool = True) -> Preset:
        """By what the registry keeps of `model`. Of a file without a chat template of its own
        (`has_template` False) an Ollama model's Go template is used, if it can be.

        A value of the wrong type is left out: it is not the user's to mend.
        """
        extras = model.extras
        parameters = extras.get("parameters")
        given = parameters if isinstance(parameters, Mapping) else {}
        n_ctx = given.get("num_ctx")
        return cls(
            sampling=_sampling(given),
            system=_text(extras.get("system")),
            messages=_messages(extras.get("messages")),
            template=_template(extras, has_template),
            n_ctx=n_ctx if isinstance(n_ctx, int) and n_ctx > 0 else None,
        )

    def messages_before(self, asked: Sequence[Message]) -> tuple[Message, ...]:
        """The preset's own messages and then what was asked. A system message that was asked
        counts in place of the preset's."""
        own = any(message.role == "system" for message in asked)
        system = (Message("system", self.system),) if self.system and not own else ()
        if own and asked[0].role == "system":
            return (asked[0], *self.messages, *asked[1:])
        return (*system, *self.messages, *asked)


def modelfile_of(model: Model) -> Modelfile:
    """The Modelfile that makes this model again from the one it was made from, or one like it
    from itself."""
    extras = model.extras
    lineage = model.lineage
    created = lineage is not None and lineage.operation == "create"
    parameters = extras.get("parameters")
    given = parameters if isinstance(parameters, Mapping) else {}
    license = _text(extras.get("license"))
    return Modelfile(
        base=lineage.parents[0][0] if lineage is not None and created else model.name,
        parameters={k: v for k, v in given.items() if k in PARAMETERS},
        template=_text(extras.get("template")),
        system=_text(extras.get("system")),
        adapters=tuple(str(f.path) for f in model.with_role("adapter")) if created else (),
        licenses=(license,) if license else (),
        messages=tuple((m.role, m.content) for m in _messages(extras.get("messages"))),
        renderer=_text(extras.get("renderer")),
        parser=_text(extras.get("parser")),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _template(extras: Mapping[str, Any], has_template: bool) -> str | None:
    if (ready := _text(extras.get("chat_template"))) is not None:
        return ready
    source = _text(extras.get("template"))
    if has_template or source is None:
        return None
    try:
        return chat_template(source)
    except UsageProblem:
        return None


def _messages(given: Any) -> tuple[Message, ...]:
    return tuple(
        Message(one["role"], one["content"])
        for one in (given if isinstance(given, list) else [])
        if isinstance(one, Mapping)
        and one.get("role") in _ROLES
        and isinstance(one.get("content"), str)
    )


def _sampling(given: Mapping[str, Any]) -> Sampling:
    """Ollama's parameters have llama.cpp's names, as Sampling has."""
    found: dict[str, Any] = {}
    for field in fields(Sampling):
        value = given.get(field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            continue
        if isinstance(field.default, float):
            found[field.name] = float(value)
        elif isinstance(field.default, int) or (field.name == "seed" and value >= 0):
            found[field.name] = int(value)
    limit = given.get("num_predict")
    if isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0:
        found["max_tokens"] = limit
    stop = given.get("stop")
    stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    found["stop"] = tuple(one for one in stops if isinstance(one, str) and one)
    return replace(Sampling(), **found)
