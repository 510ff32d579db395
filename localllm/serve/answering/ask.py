"""What a request asks for, in no API's words, and the tokens that it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from localllm.engine.infill import infill_prompt
from localllm.engine.scheduler import Request
from localllm.engine.template import encode_prompt
from localllm.engine.tokenizer import Tokenizer
from localllm.engine.vision.prompt import MediaPrompt
from localllm.engine.vision.vision import Pictures, has_images
from localllm.errors import EngineError, UsageProblem
from localllm.generation import Message, Sampling
from localllm.library.presets import Preset
from localllm.serve.resident.desk import InUse
from localllm.thinking import ThinkingFormat
from localllm.toolcalls import Tool, ToolFormat

_TAIL = 500  # characters of a prompt's end; what opens the thinking stands there


class PromptTooLong(UsageProblem):
    """The prompt leaves no room for an answer in the context that a request may use."""


@dataclass(frozen=True)
class Ask:
    """One request. `messages` are answered; where they are None, `text` is continued as it
    stands, or the `tokens` if there are any. `sampling` replaces fields of the model's defaults;
    `schema` is the JSON schema that its grammar was made from, for those who want that.

    `tool_choice` is "auto", "required", "none" or a tool's name. `variables` are handed to the
    chat template (enable_thinking ...). With `suffix` the text's gap before it is filled. `images`
    belong to a `text`, in which MARKER says where. `before` are tokens that stand in front of it
    all, a conversation from which this one goes on; the model's preset is in them already.
    `score_prompt` asks for the logprobs of the prompt's own tokens. `template` is a chat template
    (Jinja) in place of the model's.
    """

    messages: tuple[Message, ...] | None = None
    text: str = ""
    tokens: tuple[int, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | bool | None = None
    n: int = 1
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    parallel_calls: bool = True
    variables: Mapping[str, Any] = field(default_factory=dict)
    ignore_eog: bool = False
    cache_prompt: bool = True
    deadline_s: float | None = None
    suffix: str | None = None
    images: tuple[bytes, ...] = ()
    before: tuple[int, ...] = ()
    score_prompt: bool = False
    template: str | None = None


@dataclass(frozen=True)
class Prepared:
    """A request ready to be computed, and how its answer is read."""

    request: Request
    tools: tuple[Tool, ...] = ()
    format: ToolFormat | None = None  # of the tool calls, where there may be any
    thinking: ThinkingFormat | None = None  # None: the text is continued as it stands
    prompt: str = ""  # as rendered: some templates open the thinking there
    media: MediaPrompt | None = None  # with images, before there is a request


def prepare(ask: Ask, use: InUse) -> Prepared:
    """Render, tokenize and check; takes milliseconds to seconds, so not on the event loop.

    Raises UsageProblem for a conversation that the template refuses, tools or a grammar that
    cannot be, PromptTooLong; EngineError for a broken template.
    """
    preset = _preset(use)
    prompt, sampling, prepared = _read(ask, use, preset)
    media = prepared.media
    n_ctx = min(use.resident.n_ctx, preset.n_ctx or use.resident.n_ctx)
    request = Request(
        prompt,
        _within(sampling, media.n_cells if media else len(prompt), n_ctx),
        n=ask.n,
        logit_bias=ask.logit_bias,
        logprobs=ask.logprobs,
        adapters=use.resident.adapters(use.served.adapters) if use.served.adapters else None,
        deadline_s=ask.deadline_s,
        cache_prompt=ask.cache_prompt,
        ignore_eog=ask.ignore_eog,
        media=media,
        score_prompt=ask.score_prompt,
    )
    return replace(prepared, request=request)


def counted(ask: Ask, use: InUse) -> int:
    """The tokens of its prompt, however many. Raises as `prepare` does, but not PromptTooLong."""
    prompt, _, prepared = _read(ask, use, _preset(use))
    return prepared.media.n_cells if prepared.media is not None else len(prompt)


def _preset(use: InUse) -> Preset:
    generator = use.resident.generates(use.served.name)
    return Preset.of(use.served.model, has_template=not generator.template.is_plain)


def _read(ask: Ask, use: InUse, preset: Preset) -> tuple[Sequence[int], Sampling, Prepared]:
    """The prompt's tokens, and what is known of the answer by then."""
    tokenizer = use.resident.tokenizer
    sampling = replace(preset.sampling, **ask.sampling)
    prepared = Prepared(Request(()))
    prompt: Sequence[int] = ask.tokens
    media: MediaPrompt | None = None
    if ask.suffix is not None:
        prompt = infill_prompt(tokenizer, prompt or ask.text, ask.suffix)
    elif ask.messages is None and ask.images:
        media = _pictured(ask, use)
    elif ask.messages is None:
        prompt = prompt or encode_prompt(tokenizer, ask.text)
    else:
        text, sampling, prepared = _conversation(ask, use, preset, sampling)
        media = prepared.media
        prompt = media.tokens if media is not None else encode_prompt(tokenizer, text)
    if media is not None:
        prompt = media.tokens
    if ask.before:
        prompt = _after(ask.before, prompt, tokenizer, media)
    return prompt, sampling, replace(prepared, media=media)


def _conversation(
    ask: Ask, use: InUse, preset: Preset, sampling: Sampling
) -> tuple[str, Sampling, Prepared]:
    """The prompt's text, and what the template and the tools add to how it is answered."""
    assert ask.messages is not None
    template = use.resident.template(preset.template)
    if ask.template is not None:
        template = use.resident.own_template(ask.template)
    messages: Sequence[Message] = ask.messages
    if not ask.before:
        messages = preset.messages_before(ask.messages)
    offered = ask.tools if ask.tool_choice != "none" else ()
    if offered and "tools" not in f"{template.source}{template.named.keys()}":
        raise UsageProblem(f"{use.served.name} knows no tools: its chat template has none")
    pictures: Pictures | None = None
    if has_images(messages):
        vision = use.resident.vision(use.served.name)
        messages, pictures = vision.marked(messages)
    offers = [tool.as_openai() for tool in offered]
    try:
        rendered = template.render(messages, tools=offers, variables=ask.variables)
    except EngineError as error:
        if not ask.variables and ask.template is None:
            raise
        # What the client hands to the template, or the template it sent, is the likelier reason.
        raise UsageProblem(error.message) from None
    thinking = ThinkingFormat.of(template.source)
    sampling = replace(
        sampling,
        stop=(*sampling.stop, *rendered.stop),
        special=sampling.special or thinking.special,
    )
    calls: ToolFormat | None = None
    if offered:
        calls = ToolFormat.of(template.source or "", use.served.model.architecture)
        sampling = calls.sampling(sampling, offered, ask.tool_choice, ask.parallel_calls)
    prepared = Prepared(
        Request(()),
        tools=offered,
        format=calls,
        # Where it tells of calls, Harmony's own parser tells thinking from answer too.
        thinking=None if calls is not None and thinking.harmony else thinking,
        prompt=rendered.text[-_TAIL:],
        media=vision.read(rendered.text, pictures) if pictures is not None else None,
    )
    return rendered.text, sampling, prepared


def _pictured(ask: Ask, use: InUse) -> MediaPrompt:
    """A text as it stands, with its images."""
    vision = use.resident.vision(use.served.name)
    marked, pictures = vision.marked([Message("user", ask.text, {"images": ask.images})])
    return vision.read(marked[0].content, pictures)


def _after(
    before: Sequence[int], prompt: Sequence[int], tokenizer: Tokenizer, media: MediaPrompt | None
) -> list[int]:
    """Both, with one BOS."""
    if media is not None:
        raise UsageProblem("a conversation that goes on from its tokens (context) has no images")
    begins = tokenizer.bos is not None and list(prompt[:1]) == [tokenizer.bos]
    return [*before, *prompt[begins:]]


def _within(sampling: Sampling, n_prompt: int, n_ctx: int) -> Sampling:
    """An answer ends where the context of a conversation does; the cache itself is larger, since
    all conversations share it."""
    room = n_ctx - n_prompt
    if room < 1:
        raise PromptTooLong(
            f"the prompt is {n_prompt} tokens; a conversation here has a context of {n_ctx}, "
            "and the answer needs room in it",
            f"shorten it, or start the server with --ctx {n_prompt + 1024}",
        )
    if sampling.max_tokens is None or sampling.max_tokens > room:
        return replace(sampling, max_tokens=room)
    return sampling
