"""Several prompts answered together, on the caller's own thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from localllm.engine.context import Context
from localllm.engine.scheduler.answer import Completion, Transcript
from localllm.engine.scheduler.loop import StepLoop
from localllm.engine.scheduler.request import Request
from localllm.engine.scheduler.slot import Job
from localllm.errors import UsageProblem
from localllm.generation import Sampling

__all__ = ["Completion", "generate_many"]


def generate_many(
    context: Context, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling]
) -> list[Completion]:
    """Answer all `prompts`, `context.n_seq_max` at a time; in the order given.

    A seed gives each its answer whatever runs beside it (to rounding: batches of other
    sizes may add in another order). Ctrl-C ends it within a graph node.
    Raises UsageProblem for a prompt or a sampling that cannot be, EngineError on failure.
    """
    if len(prompts) != len(samplings):
        raise UsageProblem(f"{len(prompts)} prompts, but {len(samplings)} samplings")
    loop = StepLoop(context)
    requests = [Request(p, s) for p, s in zip(prompts, samplings, strict=True)]
    for request in requests:
        loop.check(request)
    scripts = [Transcript(request) for request in requests]
    waiting = deque(Job(r, script.add) for r, script in zip(requests, scripts, strict=True))
    context.arm()
    try:
        while waiting or loop.busy:
            while waiting and loop.may_admit(waiting[0]):
                job = waiting.popleft()
                loop.admit(job, loop.samples(job))
            loop.step()
    finally:
        loop.close()
    return [script.completions()[0] for script in scripts]
