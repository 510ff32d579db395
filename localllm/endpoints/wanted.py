"""What is asked of a server, and the JSON that it becomes.

By default only what OpenAI's API defines is sent. Servers of a known kind are sent their own
fields too, under their own names:
llama.cpp  https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
vLLM       https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from localllm.endpoints.endpoint import Endpoint, Kind
from localllm.endpoints.messages import messages_json
from localllm.errors import UsageProblem
from localllm.generation import Message, Sampling
from localllm.toolcalls import Tool

_OPENAI = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "max_tokens",
           "stop")  # fmt: skip
_LOCAL = ("top_k", "min_p", "typical_p", "repeat_penalty")
_LLAMA = (*_LOCAL, "repeat_last_n", "top_n_sigma", "dry_multiplier", "dry_base",
          "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "xtc_probability",
          "xtc_threshold", "dynatemp_range", "dynatemp_exponent", "mirostat", "mirostat_tau",
          "mirostat_eta")  # fmt: skip
# Our names of what each kind takes beside OpenAI's -> its own
_OWN: Mapping[Kind, Mapping[str, str]] = {
    "openai": {},
    "ollama": {},
    "llama.cpp": {name: name for name in _LLAMA},
    "localllm": {name: name for name in _LOCAL},
    "vllm": {"top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repetition_penalty"},
}
_GBNF = ("llama.cpp", "localllm")
_TEMPLATES = ("llama.cpp", "localllm", "vllm")  # take chat_template_kwargs
_NOT_SENT = ("special", "grammar", "grammar_triggers")  # ours alone, or told otherwise
_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True)
class Wanted:
    """One request. Where `messages` is None, `text` (or tokens of the server's model) is continued
    as it stands.

    `given` names the fields of `sampling` that were decided by somebody; the others are left to
    the server. None: those that are not Sampling's defaults. `schema` is a JSON schema that the
    answer follows. `tool_choice` is "auto", "required", "none" or a tool's name; `variables` are
    for the chat template (enable_thinking ...).
    """

    messages: tuple[Message, ...] | None = None
    text: str | tuple[int, ...] = ""
    sampling: Sampling = field(default_factory=Sampling)
    given: frozenset[str] | None = None
    n: int = 1
    schema: Mapping[str, Any] | bool | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    parallel_calls: bool = True
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    ignore_eog: bool = False
    deadline_s: float | None = None

    @property
    def path(self) -> str:
        return "/completions" if self.messages is None else "/chat/completions"


def unsent(endpoint: Endpoint, sampling: Sampling, given: frozenset[str] | None) -> tuple[str, ...]:
    """The names of sampling fields that were decided and that this kind of server does not know:
    they are not sent, since servers refuse or ignore what they do not know."""
    known = {*_OPENAI, *_OWN[endpoint.kind], *_NOT_SENT}
    return tuple(name for name in _given(sampling, given) if name not in known)


def body_of(endpoint: Endpoint, wanted: Wanted) -> dict[str, Any]:
    """The JSON to send. Raises UsageProblem for what this kind of server cannot do."""
    body: dict[str, Any] = {"model": endpoint.model}
    if wanted.messages is None:
        body["prompt"] = wanted.text if isinstance(wanted.text, str) else list(wanted.text)
    else:
        replay = endpoint.kind in _TEMPLATES
        body["messages"] = messages_json(wanted.messages, with_reasoning=replay)
    body |= _sampled(endpoint, wanted)
    body |= _formed(endpoint, wanted)
    body |= _tools(wanted)
    if wanted.n != 1:
        body["n"] = wanted.n
    if wanted.logit_bias:
        body["logit_bias"] = {
            str(token): -100.0 if value == -math.inf else value
            for token, value in wanted.logit_bias.items()
        }
    body["stream"] = True
    # Without it there are no token counts; servers that do not know it are asked again without.
    body["stream_options"] = {"include_usage": True}
    return body


def _sampled(endpoint: Endpoint, wanted: Wanted) -> dict[str, Any]:
    sampling, given = wanted.sampling, _given(wanted.sampling, wanted.given)
    own = _OWN[endpoint.kind]
    body: dict[str, Any] = {}
    for name in given:
        value = getattr(sampling, name)
        if name in _OPENAI:
            body[name] = list(value) if isinstance(value, tuple) else value
        elif name in own:
            body[own[name]] = list(value) if isinstance(value, tuple) else value
    if not body.get("stop", True):
        del body["stop"]
    if wanted.ignore_eog:
        if endpoint.kind not in _TEMPLATES:
            raise UsageProblem(f"{endpoint.name} cannot be told to go on past the end (ignore_eos)")
        body["ignore_eos"] = True
    return body


def _given(sampling: Sampling, given: frozenset[str] | None) -> list[str]:
    usual = Sampling()
    names = [f.name for f in fields(Sampling)]
    if given is not None:
        return [n for n in names if n in given and getattr(sampling, n) is not None]
    return [n for n in names if getattr(sampling, n) != getattr(usual, n)]


def _formed(endpoint: Endpoint, wanted: Wanted) -> dict[str, Any]:
    """What holds the answer to a form: a schema, else a grammar; and words for the template."""
    body: dict[str, Any] = {}
    if wanted.schema is not None and wanted.messages is None and endpoint.kind != "vllm":
        raise UsageProblem("a text that is continued as it stands takes no JSON schema elsewhere")
    if wanted.schema is not None:
        body["response_format"] = _format(wanted.schema)
    elif wanted.sampling.grammar is not None:
        body |= _grammar(endpoint, wanted.sampling.grammar)
    if wanted.variables and wanted.messages is not None:
        if endpoint.kind in _TEMPLATES:
            body["chat_template_kwargs"] = dict(wanted.variables)
        elif isinstance(effort := wanted.variables.get("reasoning_effort"), str):
            body["reasoning_effort"] = effort
    return body


def _format(schema: Mapping[str, Any] | bool) -> dict[str, Any]:
    if schema is True or schema == _ANY_OBJECT:
        return {"type": "json_object"}
    named = {"name": "answer", "schema": schema, "strict": True}
    return {"type": "json_schema", "json_schema": named}


def _grammar(endpoint: Endpoint, grammar: str) -> dict[str, Any]:
    if endpoint.kind in _GBNF:
        return {"grammar": grammar}
    raise UsageProblem(
        f"{endpoint.name} takes no GBNF grammar: only llama.cpp's server and localllm do",
        "give a JSON schema, or declare the endpoint: --kind llama.cpp",
    )


def _tools(wanted: Wanted) -> dict[str, Any]:
    if not wanted.tools:
        return {}
    body: dict[str, Any] = {"tools": [tool.as_openai() for tool in wanted.tools]}
    choice = wanted.tool_choice
    if choice in ("required", "none"):
        body["tool_choice"] = choice
    elif choice != "auto":
        body["tool_choice"] = {"type": "function", "function": {"name": choice}}
    if not wanted.parallel_calls:
        body["parallel_tool_calls"] = False
    return body
