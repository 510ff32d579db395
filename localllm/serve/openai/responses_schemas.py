"""The body of /v1/responses. https://platform.openai.com/docs/api-reference/responses"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import Field

from localllm.serve.web.shapes import Body


class InputText(Body):
    type: Literal["input_text", "output_text", "text"]
    text: str


class InputRefusal(Body):
    type: Literal["refusal"]
    refusal: str


class InputImage(Body):
    type: Literal["input_image"]
    image_url: str | None = None
    file_id: str | None = None


InputContent = Annotated[InputText | InputRefusal | InputImage, Field(discriminator="type")]


class InputItem(Body):
    """A message, a call that was made, or what it brought; `type` says which."""

    type: Literal[
        "message", "function_call", "function_call_output", "reasoning", "item_reference"
    ] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[InputContent] | list[dict[str, Any]] | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    output: str | list[InputContent] | None = None
    summary: list[dict[str, Any]] | None = None
    encrypted_content: str | None = None

    @property
    def is_reference(self) -> bool:
        """Nothing but the id of an item: `type` may be left out, too."""
        if self.type == "item_reference":
            return True
        bare = self.type == "message" and self.role is None and self.content is None
        return bare and self.id is not None

    @property
    def thought(self) -> str:
        """Of a reasoning item: all that was thought, where that came back, else its summary."""
        if isinstance(self.content, list):
            texts = [_text_of(one, "reasoning_text") for one in self.content]
            if found := "\n".join(filter(None, texts)):
                return found
        if (sealed := unsealed(self.encrypted_content)) is not None:
            return sealed
        texts = [_text_of(one, "summary_text") for one in self.summary or ()]
        return "\n".join(filter(None, texts))


_SEAL = "localllm."  # what other servers sealed is theirs to read


def sealed(text: str) -> str:
    """`encrypted_content` for clients that keep nothing else of the thinking. It is no secret."""
    return _SEAL + base64.b64encode(text.encode()).decode()


def unsealed(given: str | None) -> str | None:
    """None for what was not sealed here."""
    if given is None or not given.startswith(_SEAL):
        return None
    try:
        return base64.b64decode(given.removeprefix(_SEAL), validate=True).decode()
    except (binascii.Error, ValueError):
        return None


def _text_of(part: Any, kind: str) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == kind else None
    return text if isinstance(text, str) else ""


class ResponseTool(Body):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    tools: list[ResponseTool] | None = Field(None, description="Of a namespace.")


class ChosenTool(Body):
    type: Literal["function"]
    name: str


class ToolSubset(Body):
    """Of the tools these may be called now."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[ChosenTool], Field(min_length=1)]


class TextFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    json_schema: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = None


class TextConfig(Body):
    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(Body):
    effort: str | None = None
    summary: str | None = Field(None, description="Where it is asked for, the thinking is told so.")
    generate_summary: str | None = None


class ResponsesBody(Body):
    model: str
    input: str | list[InputItem]
    instructions: str | None = None
    previous_response_id: str | None = Field(
        None, description="Kept in this server's memory, for as long as it runs."
    )
    store: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | ToolSubset | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    stream: bool | None = None
    include: list[str] | None = Field(
        None,
        description="message.output_text.logprobs, reasoning.encrypted_content; the rest is not "
        "made here.",
    )
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    # echoed, and nothing else
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    max_tool_calls: int | None = Field(None, description="Of tools that OpenAI runs; none here.")
    # refused where they are given
    background: bool | None = None
    conversation: Any | None = None
    prompt: Any | None = None

    @property
    def wants_summary(self) -> bool:
        """Whether the thinking is told as a summary: all of it, in the summary's place."""
        asked = self.reasoning
        return asked is not None and bool(asked.summary or asked.generate_summary)

    @property
    def wants_sealed(self) -> bool:
        return "reasoning.encrypted_content" in (self.include or ())

    @property
    def n_logprobs(self) -> int | None:
        """How many beside the chosen token; None where none are asked for."""
        if "message.output_text.logprobs" in (self.include or ()) or self.top_logprobs:
            return self.top_logprobs or 0
        return None
