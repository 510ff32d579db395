"""Continuous batching: one thread, one context, many requests at once.

with Scheduler(context) as scheduler:
    answer = scheduler.submit(Request(prompt=tokens, sampling=Sampling(seed=1)))
    for piece in answer:
        ...
    answer.accounting
"""

from localllm.engine.scheduler.answer import Answer, Completion, OnEvent
from localllm.engine.scheduler.generator import SharedGenerator
from localllm.engine.scheduler.load import Counters, Load
from localllm.engine.scheduler.pool import Lease, Loaded, ModelPool, Planner, Resident
from localllm.engine.scheduler.request import (
    Busy,
    DeadlinePassed,
    Event,
    Logprob,
    Request,
    Stopped,
    TokenLogprobs,
)
from localllm.engine.scheduler.room import Holding
from localllm.engine.scheduler.scheduler import Scheduler, SchedulerOptions

__all__ = [
    "Answer",
    "Busy",
    "Completion",
    "Counters",
    "DeadlinePassed",
    "Event",
    "Holding",
    "Lease",
    "Load",
    "Loaded",
    "Logprob",
    "ModelPool",
    "OnEvent",
    "Planner",
    "Request",
    "Resident",
    "Scheduler",
    "SchedulerOptions",
    "SharedGenerator",
    "Stopped",
    "TokenLogprobs",
]
