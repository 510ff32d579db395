"""The sampling options under the field's names."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from localllm.generation import Sampling

_PANEL = "Sampling"


def _option(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_PANEL, **more)


Temperature = Annotated[
    float | None, _option("--temperature", "--temp", help="0 is greedy.", min=0.0)
]
TopK = Annotated[int | None, _option("--top-k", help="0 switches it off.", min=0)]
TopP = Annotated[float | None, _option("--top-p", help="1 switches it off.", min=0.0, max=1.0)]
MinP = Annotated[float | None, _option("--min-p", help="0 switches it off.", min=0.0, max=1.0)]
RepeatPenalty = Annotated[
    float | None, _option("--repeat-penalty", help="1 switches it off.", min=0.0)
]
Seed = Annotated[int | None, _option("--seed", help="Makes the answer reproducible.", min=0)]
MaxTokens = Annotated[
    int | None, _option("--max-tokens", "-n", help="Stop after so many tokens.", min=0)
]
Stop = Annotated[list[str] | None, _option("--stop", help="End at this text; may be repeated.")]


def merged(
    base: Sampling, *, stop: list[str] | None = None, **given: float | int | None
) -> Sampling:
    """`base` with the options that were given; stop strings are added to the model's own."""
    named: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if stop:
        named["stop"] = (*base.stop, *stop)
    return replace(base, **named)
