"""The sampling options under the field's names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from localllm.chat.files import read_text
from localllm.errors import UsageProblem
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
TypicalP = Annotated[
    float | None, _option("--typical-p", "--typical", help="1 switches it off.", min=0.0, max=1.0)
]
TopNSigma = Annotated[float | None, _option("--top-n-sigma", help="0 switches it off.", min=0.0)]
RepeatPenalty = Annotated[
    float | None, _option("--repeat-penalty", help="1 switches it off.", min=0.0)
]
RepeatLastN = Annotated[
    int | None,
    _option("--repeat-last-n", help="Tokens that the penalties look back; -1 all.", min=-1),
]
PresencePenalty = Annotated[float | None, _option("--presence-penalty", help="0 switches it off.")]
FrequencyPenalty = Annotated[
    float | None, _option("--frequency-penalty", help="0 switches it off.")
]
DryMultiplier = Annotated[
    float | None,
    _option("--dry-multiplier", help="Strength of DRY against repetition; 0 is off.", min=0.0),
]
DryBase = Annotated[float | None, _option("--dry-base", help="Default 1.75.", min=1.0)]
DryAllowedLength = Annotated[
    int | None, _option("--dry-allowed-length", help="Repeated tokens that are free.", min=0)
]
DryPenaltyLastN = Annotated[
    int | None, _option("--dry-penalty-last-n", help="How far DRY looks back; -1 all.", min=-1)
]
DryBreaker = Annotated[
    list[str] | None,
    _option("--dry-sequence-breaker", help="Text at which repetition starts anew; repeatable."),
]
XtcProbability = Annotated[
    float | None, _option("--xtc-probability", help="0 switches XTC off.", min=0.0, max=1.0)
]
XtcThreshold = Annotated[
    float | None, _option("--xtc-threshold", help="Above 0.5 it is off.", min=0.0, max=1.0)
]
DynatempRange = Annotated[
    float | None,
    _option("--dynatemp-range", help="Temperature moves by so much with entropy.", min=0.0),
]
DynatempExponent = Annotated[
    float | None, _option("--dynatemp-exponent", "--dynatemp-exp", help="Default 1.", min=0.0)
]
Mirostat = Annotated[
    int | None, _option("--mirostat", help="1 or 2, in place of top-k, top-p ...", min=0, max=2)
]
MirostatTau = Annotated[
    float | None, _option("--mirostat-tau", "--mirostat-ent", help="Default 5.", min=0.0)
]
MirostatEta = Annotated[
    float | None, _option("--mirostat-eta", "--mirostat-lr", help="Default 0.1.", min=0.0)
]
Seed = Annotated[int | None, _option("--seed", help="Makes the answer reproducible.", min=0)]
MaxTokens = Annotated[
    int | None, _option("--max-tokens", "-n", help="Stop after so many tokens.", min=0)
]
Stop = Annotated[list[str] | None, _option("--stop", help="End at this text; may be repeated.")]
JsonSchema = Annotated[
    Path | None,
    _option("--json-schema", metavar="FILE", help="The answer is JSON of this schema."),
]
Grammar = Annotated[
    Path | None, _option("--grammar", metavar="FILE", help="The answer follows this GBNF.")
]


def said(**options: Any) -> dict[str, Any]:
    """The sampling values among the options that were given, checked. Raises UsageProblem."""
    from localllm.engine.sampling import check_sampling

    given: dict[str, Any] = {}
    for name, value in options.items():
        if value is not None:
            given[name] = tuple(value) if isinstance(value, list) else value
    check_sampling(replace(Sampling(), **given))
    return given


def forced_grammar(schema: Path | None, grammar: Path | None) -> str | None:
    """The grammar that answers must follow. Raises UsageProblem for a schema or grammar that
    cannot be used, FileGone."""
    if schema is not None and grammar is not None:
        raise UsageProblem("--json-schema and --grammar exclude each other")
    if grammar is not None:
        return _read_grammar(grammar)
    value = read_schema(schema)
    if value is None:
        return None
    from localllm.grammars import json_schema_grammar

    return json_schema_grammar(value)


def _read_grammar(path: Path) -> str:
    """Looked at before a model is loaded; which of its token names the model has is seen then."""
    from localllm.engine.grammar import check_grammar

    text = read_text(path)
    check_grammar(text, lambda name: 0)
    return text


def read_schema(schema: Path | None) -> Mapping[str, Any] | bool | None:
    """The JSON schema in this file; None where there is none. Raises UsageProblem, FileGone."""
    if schema is None:
        return None
    try:
        value = json.loads(read_text(schema))
    except (ValueError, RecursionError) as error:
        raise UsageProblem(f"{schema} is no JSON: {error}") from None
    if not isinstance(value, dict | bool):
        raise UsageProblem(f"{schema} is no JSON schema: it is neither an object nor a boolean")
    return value
