"""The bodies of OpenAI's API, as far as they mean something here.

https://platform.openai.com/docs/api-reference. Beside its fields, those of llama.cpp's server:
top_k, min_p, typical_p, repeat_penalty, grammar, cache_prompt, ignore_eos.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from localllm.serve.web.shapes import Body

Stop = str | Annotated[list[str], Field(max_length=64)]
_MOST_LOGPROBS = 20


class Sampled(Body):
    """What chooses the tokens; the same for all that generate."""

    model: str = Field(description="A name of /v1/models.")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: Stop | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    grammar: str | None = Field(None, description="GBNF, in place of response_format.")
    ignore_eos: bool | None = None
    cache_prompt: bool | None = None
    # what other servers call a grammar: an answer that does not keep to it is not what was asked
    # for, and so they are refused
    json_schema: Any | None = None
    structured_outputs: Any | None = None
    guided_json: Any | None = None
    guided_regex: Any | None = None
    guided_choice: Any | None = None
    guided_grammar: Any | None = None


class StreamOptions(Body):
    include_usage: bool | None = None


class ImageUrl(Body):
    url: str
    detail: str | None = None


class TextContent(Body):
    type: Literal["text", "input_text", "output_text"]
    text: str


class ImageContent(Body):
    type: Literal["image_url"]
    image_url: ImageUrl


class RefusalContent(Body):
    type: Literal["refusal"]
    refusal: str


Content = Annotated[TextContent | ImageContent | RefusalContent, Field(discriminator="type")]


class CalledFunction(Body):
    name: str
    arguments: str


class CallMade(Body):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Content] | None = None
    name: str | None = None
    tool_calls: list[CallMade] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class Function(Body):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Body):
    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class AllowedTools(Body):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class ToolSubset(Body):
    """Of the tools these may be called now."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class JsonSchema(Body):
    name: str = "answer"
    description: str | None = None
    json_schema: dict[str, Any] | bool = Field(True, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatBody(Sampled):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=_MOST_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | ToolSubset | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Handed to the chat template, as enable_thinking."
    )
    # refused where they are given: an answer without them would not be what was asked for
    functions: list[Any] | None = None
    function_call: Any | None = None
    audio: Any | None = None
    modalities: list[str] | None = None
    web_search_options: Any | None = None


class CompletionBody(Sampled):
    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=0)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=_MOST_LOGPROBS)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None

    @property
    def n_samples(self) -> int:
        """How many are computed; the best `n` of them are given."""
        return max(self.n or 1, self.best_of or 1)


class EmbeddingsBody(Body):
    model: str
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None


Sampled.model_rebuild()
