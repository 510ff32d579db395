"""The bodies of Ollama's API. https://github.com/ollama/ollama/blob/main/docs/api.md"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from localllm.serve.web.shapes import Body

KeepAlive = float | int | str


def _whole(value: Any) -> Any:
    """Clients that know only one kind of number write 40.0 for 40."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


class Options(Body):
    """What chooses the tokens. What concerns loading (num_ctx, num_gpu ...) is the server's own
    affair here: --ctx, the Modelfile and the plan decide."""

    temperature: Annotated[float, Field(ge=0)] | None = None
    top_k: Whole | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_last_n: Annotated[Whole, Field(ge=-1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0)] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: Whole | None = None
    num_predict: Whole | None = None
    stop: str | Annotated[list[str], Field(max_length=64)] | None = None
    mirostat: Annotated[Whole, Field(ge=0, le=2)] | None = None
    mirostat_tau: Annotated[float, Field(ge=0)] | None = None
    mirostat_eta: Annotated[float, Field(ge=0)] | None = None


class Named(Body):
    """`name` is what older clients say for `model`."""

    model: str

    @model_validator(mode="before")
    @classmethod
    def _older(cls, given: Any) -> Any:
        if isinstance(given, dict) and "model" not in given and isinstance(given.get("name"), str):
            return given | {"model": given["name"]}
        return given


class Asked(Named):
    """What chat and generate have in common."""

    format: Literal["", "json"] | dict[str, Any] | None = None
    options: Options | None = None
    stream: bool | None = None
    keep_alive: KeepAlive | None = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None

    @property
    def n_logprobs(self) -> int | None:
        """How many beside the chosen token; None where none are asked for."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CalledFunction(Body):
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class CallMade(Body):
    id: str | None = None
    function: CalledFunction


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class OllamaMessage(Body):
    role: Annotated[Literal["system", "user", "assistant", "tool"], BeforeValidator(_lower)]
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[CallMade] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaFunction(Body):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class OllamaTool(Body):
    type: str | None = None
    function: OllamaFunction


class OllamaChatBody(Asked):
    messages: list[OllamaMessage] | None = None
    tools: list[OllamaTool] | None = None


class OllamaGenerateBody(Asked):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class OllamaEmbedBody(Named):
    input: str | list[str]
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    keep_alive: KeepAlive | None = None


class OllamaEmbeddingsBody(Named):
    prompt: str
    keep_alive: KeepAlive | None = None


class NameBody(Named):
    """`stream` and `insecure` are for pull."""

    stream: bool | None = None
    insecure: bool | None = None
    verbose: bool | None = None


class CopyBody(Body):
    source: str
    destination: str


class CreateBody(Named):
    base: str | None = Field(None, alias="from")
    system: str | None = None
    template: str | None = None
    license: str | list[str] | None = None
    parameters: dict[str, Any] | None = None
    messages: list[OllamaMessage] | None = None
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    modelfile: str | None = None
    quantize: str | None = None
    stream: bool | None = None
