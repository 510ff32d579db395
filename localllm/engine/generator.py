"""A local model as a `Generator`: conversations in, streams out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from localllm.closing import Closing
from localllm.engine.adapter import attach_files
from localllm.engine.context import Context
from localllm.engine.load import Advance
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions, LoadOptions
from localllm.engine.session import Session
from localllm.engine.stream import TokenStream
from localllm.engine.template import ChatTemplate, encode_prompt
from localllm.engine.vision.vision import Vision, has_images, seeing
from localllm.generation import Message, Sampling


class LocalGenerator(Closing):
    """One model, one context, one conversation at a time.

    A conversation that goes on costs only its new tokens: what the context holds already is
    not computed again.
    """

    def __init__(
        self,
        context: Context,
        name: str | None = None,
        template: ChatTemplate | None = None,
        vision: Vision | None = None,
    ) -> None:
        """Answer from `context`, which stays its caller's to close, as `vision` does. `name`
        defaults to the file's; `template` to the model's own."""
        self.context = context
        self.session = Session(context)
        self.template = template or ChatTemplate.of(context.model)
        self.vision = vision
        self._name = name or context.model.path.stem
        self._owned: Model | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        load: LoadOptions | None = None,
        context: ContextOptions | None = None,
        *,
        name: str | None = None,
        template: str | None = None,
        adapters: Sequence[tuple[Path, float]] = (),
        advance: Advance | None = None,
    ) -> LocalGenerator:
        """Load a model and all it needs; `close` frees everything.

        `template` is Jinja in place of the model's own; `adapters` are (GGUF path, scale).
        Raises as Model.load, Context, and LoraAdapter do.
        """
        made = loaded_context(path, load, context, adapters, advance)
        try:
            generator = cls(made, name, ChatTemplate.of(made.model, template))
        except BaseException:
            made.model.close()
            raise
        generator._owned = made.model
        return generator

    @property
    def name(self) -> str:
        return self._name

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens that `generate` would answer: for counting, or to see what a model sees. An
        image is numbers below zero, one a place."""
        if has_images(messages):
            return seeing(self.vision, self._name).render(self.template, messages)[1].tokens
        return encode_prompt(self.session.tokenizer, self.template.render(messages).text)

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> TokenStream:
        """Answer a conversation; computing starts when the stream is read.

        Images are in `Message.extra["images"]`, the bytes of a file each (see Vision). Raises
        UsageProblem when the template refuses the conversation, the prompt is longer than the
        context (nothing is ever cut off), or there are images and no `vision`; EngineError for a
        broken template.
        """
        started = time.perf_counter()
        if has_images(messages):
            rendered, media = seeing(self.vision, self._name).render(self.template, messages)
            prompt = media.tokens
        else:
            rendered, media = self.template.render(messages), None
            prompt = encode_prompt(self.session.tokenizer, rendered.text)
        sampling = replace(sampling, stop=(*sampling.stop, *rendered.stop))
        return self.session.stream(prompt, sampling, started=started, media=media)

    def complete(self, text: str, sampling: Sampling) -> TokenStream:
        """Continue a text as it stands, without any template."""
        started = time.perf_counter()
        prompt = encode_prompt(self.session.tokenizer, text)
        return self.session.stream(prompt, sampling, started=started)

    def close(self) -> None:
        """Free what `open` loaded. May be called twice."""
        if self._owned is not None:
            self._owned.close()


def loaded_context(
    path: Path,
    load: LoadOptions | None,
    context: ContextOptions | None,
    adapters: Sequence[tuple[Path, float]] = (),
    advance: Advance | None = None,
) -> Context:
    """A model with one context and `adapters` attached; closing its model frees everything."""
    model = Model.load(path, load, advance)
    try:
        made = Context(model, context)
        if adapters:
            attach_files(made, adapters)
    except BaseException:
        model.close()
        raise
    return made
