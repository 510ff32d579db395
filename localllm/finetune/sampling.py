"""Answers while a model learns: from llama.cpp, with the adapter as it stands at that step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm.finetune.outcome.judge import Engine, Sample, prompt_of

if TYPE_CHECKING:
    from localllm.finetune.building import Built
    from localllm.finetune.recipe import Recipe
    from localllm.finetune.request import Learning
    from localllm.finetune.run import Ready
    from localllm.finetune.workplace import Workplace
    from localllm.registry import Model
    from localllm.ui import Sink

_LONGEST_SHOWN = 200


@dataclass(frozen=True)
class SampleAt:
    """An answer after `step` steps."""

    step: int
    sample: Sample


class Sampler:
    """Called when samples are due: writes the adapter, runs it, shows what it says.

    The engine is opened anew each time (about a second): between samples its memory is free.
    """

    def __init__(self, ready: Ready, built: Built, place: Workplace, sink: Sink) -> None:
        self._ready, self._built, self._place, self._sink = ready, built, place, sink
        self._prompts = sample_prompts(ready)
        self.taken: tuple[SampleAt, ...] = ()

    def __call__(self, step: int) -> None:
        from localllm.finetune.outcome.writing import write_adapter

        write_adapter(self._built, self._place.sample, {})
        try:
            for sample in run_samples(self._ready, self._place, self._prompts):
                self.taken = (*self.taken, SampleAt(step, sample))
                said = " ".join(sample.answer.split())[:_LONGEST_SHOWN]
                self._sink.note(f"step {step}: {said}")
                self._sink.progress.event(
                    "sample", {"step": step, "prompt": sample.prompt, "answer": sample.answer}
                )
        finally:
            self._place.sample.unlink(missing_ok=True)


def helped(built: Built, step: int) -> None:
    """What the processes beside the one that samples do: give their part of the adapters."""
    from localllm.finetune.outcome.writing import help_write

    help_write(built)


def run_samples(
    ready: Ready, place: Workplace, prompts: Sequence[Sequence[int]]
) -> list[Sample]:  # fmt: skip
    """The answers of the adapter that was just written."""
    longest = max(map(len, prompts), default=0)
    n_ctx = max(ready.layout.pack_tokens, longest) + ready.recipe.sample_tokens
    with Engine(ready.subject.model.path, n_ctx, threads=ready.threads) as engine:
        engine.use(place.sample)
        return list(engine.answers(prompts, ready.recipe.sample_tokens))


def sample_prompts(ready: Ready) -> list[list[int]]:
    """The user's own prompts, else those of the first held-out rows, else of the first rows."""
    if ready.recipe.sample_prompt:
        return own_prompts(ready.subject.model, ready.recipe, as_text=ready.template is None)
    return data_prompts(ready.learning, ready.recipe.samples)


def own_prompts(model: Model, recipe: Recipe, *, as_text: bool) -> list[list[int]]:
    """The user's prompts as `chat` sends them: in the template that was trained with, behind the
    system message, thinking or not. `as_text`: as they stand."""
    from localllm.finetune.data import Dialect
    from localllm.generation import Message

    with Dialect.of(model, template=recipe.chat_template, thinking=recipe.thinking) as dialect:
        if as_text:
            return [dialect.raw(text).ids for text in recipe.sample_prompt]
        return [
            dialect.ask(dialect.seen([Message("user", text)], recipe.system).messages).ids
            for text in recipe.sample_prompt
        ]


def data_prompts(learning: Learning, wanted: int) -> list[list[int]]:
    """What stands before the first token that counts, of some rows; none twice."""
    items = learning.held_out if len(learning.held_out) else learning.train
    found: list[list[int]] = []
    for i in range(len(items)):
        prompt = prompt_of(items[i][0])
        if len(prompt) > 1 and prompt not in found:
            found.append(prompt)
        if len(found) >= wanted:
            break
    return found[:wanted]
