"""Speculative decoding: a draft guesses several tokens, the model verifies them in one step.

with DraftGenerator(context, draft_context) as generator:          # a smaller model drafts
    stream = generator.generate(messages, sampling)
with DraftGenerator(context) as generator: ...                     # the text itself does

The answers are the model's own: see `session`. What a draft changes is the time. It pays
where verifying a few tokens costs little more than computing one (GPUs, large models whose
weights are what takes the time) and where the draft is often right.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from localllm.engine.context import Context
from localllm.engine.draft.lookup import LookupDrafter
from localllm.engine.draft.model import ModelDrafter
from localllm.engine.draft.pace import Pace
from localllm.engine.draft.session import DraftAccounting, Drafter, DraftSession, DraftStream
from localllm.engine.draft.vocab import check_vocabularies
from localllm.engine.generator import LocalGenerator, loaded_context
from localllm.engine.load import Advance
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions, LoadOptions
from localllm.engine.template import ChatTemplate
from localllm.engine.vision.vision import Vision
from localllm.errors import UsageProblem

__all__ = ["DraftAccounting", "DraftGenerator", "DraftOptions", "DraftStream", "check_vocabularies"]


@dataclass(frozen=True)
class DraftOptions:
    """At most `n_max` tokens are drafted at a time. `p_min` (0 to 1) drafts a token only if the
    draft gives it at least that probability; None weighs measured times instead, and stops
    drafting where it does not pay (see Pace)."""

    n_max: int = 16
    p_min: float | None = None

    def __post_init__(self) -> None:
        if self.n_max < 1:
            raise UsageProblem(f"a draft of {self.n_max} tokens is none")
        if self.p_min is not None and not 0 <= self.p_min <= 1:
            raise UsageProblem(f"p_min {self.p_min} is outside 0 to 1")


class DraftGenerator(LocalGenerator):
    """A LocalGenerator whose streams verify drafts; their accounting is a DraftAccounting.

    Both contexts stay their caller's. Both remember the conversation, so the next turn costs
    each only its new tokens.
    """

    session: DraftSession

    def __init__(
        self,
        context: Context,
        draft_context: Context | None = None,
        name: str | None = None,
        template: ChatTemplate | None = None,
        options: DraftOptions | None = None,
        vision: Vision | None = None,
    ) -> None:
        """`draft_context` is of the model that drafts; None looks up what came before in the
        text. Where a prompt has images no model drafts: it could not see them. Raises
        UsageProblem when the two models' vocabularies differ, EngineError for a draft that does
        not generate."""
        super().__init__(context, name, template, vision)
        options = options or DraftOptions()
        pace = Pace(options.p_min)
        self.session = DraftSession(context, _drafter(context, draft_context), options.n_max, pace)
        self.draft_context = draft_context

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
        draft: Path | None = None,
        options: DraftOptions | None = None,
    ) -> DraftGenerator:
        """Load a model, and the one at `draft` with the same options; `close` frees both.

        Raises as LocalGenerator.open and `__init__` do.
        """
        with ExitStack() as opened:
            made = loaded_context(path, load, context, adapters, advance)
            opened.callback(made.model.close)
            drafts = None
            if draft is not None:
                drafts = loaded_context(draft, load, context, (), advance)
                opened.callback(drafts.model.close)
            chat_template = ChatTemplate.of(made.model, template)
            generator = cls(made, drafts, name, chat_template, options)
            opened.pop_all()
        generator._owned = made.model
        generator._draft_owned = drafts.model if drafts is not None else None
        return generator

    _draft_owned: Model | None = None

    def close(self) -> None:
        """Free what `open` loaded. May be called twice."""
        if self._draft_owned is not None:
            self._draft_owned.close()
        super().close()


def _drafter(context: Context, draft: Context | None) -> Drafter:
    model = context.model
    if draft is None:
        return LookupDrafter(model.tokenizer)
    if draft is context:
        raise UsageProblem("a context cannot draft for itself: make another of the same model")
    check_vocabularies(model, draft.model)
    return ModelDrafter(draft, model.tokenizer.n_vocab)
