"""Tools offered to a model, and what comes out of its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_ANYTHING: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True)
class Tool:
    """A function that a model may call. `parameters` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def as_openai(self) -> dict[str, Any]:
        """As chat templates want it among `tools`."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters) or {"type": "object", "properties": {}},
        }
        return {"type": "function", "function": function}

    @property
    def schema(self) -> Mapping[str, Any]:
        """The schema of its arguments, which are an object whatever else it says."""
        return {**_ANYTHING, **self.parameters}


@dataclass(frozen=True)
class ToolCall:
    """`arguments` is JSON text of an object, its numbers as the model wrote them."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class TextPart:
    """What is no call. `thinking` where the format itself says that it is (Harmony's channels)."""

    text: str
    thinking: bool = False


@dataclass(frozen=True)
class CallStart:
    """A call begins. It comes when the call is complete: only then is it known to be one."""

    id: str
    name: str


@dataclass(frozen=True)
class CallArguments:
    """The next piece of the arguments' JSON text."""

    text: str


@dataclass(frozen=True)
class CallEnd:
    pass


Part = TextPart | CallStart | CallArguments | CallEnd


@dataclass(frozen=True)
class Found:
    """A call as it was read. `id` None where the format writes none."""

    name: str
    arguments: str
    id: str | None = None
