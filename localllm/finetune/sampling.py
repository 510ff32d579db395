"""Answers while a model learns: from llama.cpp, with the adapter as it stands at that step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm.finetune.outcome.judge import Engine, Sample, prompt_of

if TYPE_CHECKING:
    from localllm.finetune.building import Built
    from localllm.finetune.request import Learning
    from localllm.finetune.run import Ready
    from localllm.finetune.workplace import Workplace
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
        self.taken: tuple[SampleAt, ...] = ()

    def __call__(self, step: int) -> None:
        from localllm.finetune.outcome.writing import write_adapter

        if self._built.adapters is None or self._ready.recipe.method == "dora":
            return  # a whole model would have to be written each time
        write_adapter(self._built, self._place.sample, {})
        try:
            for sample in run_samples(self._ready, self._place):
                self.taken = (*self.taken, SampleAt(step, sample))
                said = " ".join(sample.answer.split())[:_LONGEST_SHOWN]
                self._sink.note(f"step {step}: {said}")
                self._sink.progress.event(
                    "sample", {"step": step, "prompt": sample.prompt, "answer": sample.answer}
                )
        finally:
            self._place.sample.unlink(missing_ok=True)


def run_samples(ready: Ready, place: Workplace) -> list[Sample]:
    """The answers of the adapter that was just written."""
    n_ctx = ready.layout.pack_tokens + ready.recipe.sample_tokens
    with Engine(ready.subject.model.path, n_ctx, threads=ready.threads, force=True) as engine:
        prompts = sample_prompts(ready, engine)
        engine.use(place.sample)
        return list(engine.answers(prompts, ready.recipe.sample_tokens))


def sample_prompts(ready: Ready, engine: Engine) -> list[list[int]]:
    """The user's own prompts, else those of the first held-out rows, else of the first rows."""
    if ready.recipe.sample_prompt:
        return [engine.tokens_of(text, ready.template) for text in ready.recipe.sample_prompt]
    return data_prompts(ready.learning, ready.recipe.samples)


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
