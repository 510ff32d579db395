"""A scheduler as a `Generator`: many conversations at once, each a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from localllm.closing import Closing
from localllm.engine.context import Context
from localllm.engine.scheduler.answer import Answer, OnEvent
from localllm.engine.scheduler.request import Request
from localllm.engine.scheduler.scheduler import Scheduler, SchedulerOptions
from localllm.engine.template import ChatTemplate, encode_prompt
from localllm.engine.vision.vision import Vision, has_images, seeing
from localllm.generation import Message, Sampling


class SharedGenerator(Closing):
    """One model answering many at once. Thread-safe; a pool's Resident."""

    def __init__(
        self,
        context: Context,
        name: str | None = None,
        template: ChatTemplate | None = None,
        options: SchedulerOptions | None = None,
        *,
        vision: Vision | None = None,
        owns_model: bool = False,
    ) -> None:
        """`name` defaults to the file's, `template` to the model's own; `vision` is for images,
        and stays its caller's to close, after this. With `owns_model`, `close` frees the context
        and its model."""
        self.scheduler = Scheduler(context, options)
        self.template = template or ChatTemplate.of(context.model)
        self.vision = vision
        self._name = name or context.model.path.stem
        self._owned = context.model if owns_model else None

    @property
    def name(self) -> str:
        return self._name

    @property
    def idle(self) -> bool:
        return self.scheduler.idle

    @property
    def alive(self) -> bool:
        return self.scheduler.alive

    def request(self, messages: Sequence[Message], sampling: Sampling) -> Request:
        """A conversation as a Request, to be changed (n, logprobs, adapters ...) and submitted.

        Images are in `Message.extra["images"]`, the bytes of a file each (see Vision). Raises
        UsageProblem when the template refuses the conversation, or there are images and no
        `vision`.
        """
        if has_images(messages):
            rendered, media = seeing(self.vision, self._name).render(self.template, messages)
            prompt = media.tokens
        else:
            rendered, media = self.template.render(messages), None
            prompt = encode_prompt(self.scheduler.tokenizer, rendered.text)
        sampling = replace(sampling, stop=(*sampling.stop, *rendered.stop))
        return Request(prompt, sampling, media=media)

    def text_request(self, text: str, sampling: Sampling) -> Request:
        """To continue a text as it stands, without any template."""
        return Request(encode_prompt(self.scheduler.tokenizer, text), sampling)

    def submit(self, request: Request, on_event: OnEvent | None = None) -> Answer:
        """See Scheduler.submit."""
        return self.scheduler.submit(request, on_event)

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> Answer:
        """Answer a conversation; computing starts at once."""
        return self.submit(self.request(messages, sampling))

    def complete(self, text: str, sampling: Sampling) -> Answer:
        """Continue a text."""
        return self.submit(self.text_request(text, sampling))

    def close(self) -> None:
        """Cancel who is being answered, stop, and free what is owned. May be called twice."""
        self.scheduler.close()
        if self._owned is not None:
            self._owned.close()
