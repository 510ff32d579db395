"""Load options that bench --auto found: kept per machine, and never in the user's way."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from localllm.engine.options import ContextOptions
from localllm.library.defaults import (
    LoadDefaults,
    forget_defaults,
    keep_defaults,
    load_defaults,
)
from localllm.placement import PlanOptions
from localllm.registry import Model, Registry

FOUND = LoadDefaults(
    n_threads=4, n_threads_batch=8, n_batch=1024, n_ubatch=256, flash_attn="on",
    type_k="q8_0", type_v="q8_0", n_gpu_layers=None, n_cpu_moe=3,
    pp_speedup=1.2, tg_speedup=1.0, found_at=1.0,
)  # fmt: skip


def test_kept_for_one_machine(registry: Registry, tiny_model: Model) -> None:
    keep_defaults(registry, tiny_model, "aa", FOUND)
    keep_defaults(registry, tiny_model, "bb", replace(FOUND, n_threads=1))  # from a stale model
    again = registry.resolve(tiny_model.name)
    assert load_defaults(again, "aa") == FOUND
    other = load_defaults(again, "bb")
    assert other is not None
    assert other.n_threads == 1
    assert load_defaults(again, "cc") is None
    assert load_defaults(forget_defaults(registry, again, "aa"), "aa") is None


@pytest.mark.parametrize(
    "change",
    [{"n_threads": 0}, {"n_threads": "4"}, {"type_k": "q99"}, {"flash_attn": True},
     {"n_gpu_layers": "all"}, {"n_cpu_moe": True}, {"found_at": None}],
)  # fmt: skip
def test_what_no_version_wrote_is_ignored(
    registry: Registry, tiny_model: Model, change: dict[str, Any]
) -> None:
    model = registry.note(tiny_model, "load_defaults.aa", asdict(FOUND) | change)
    assert load_defaults(model, "aa") is None


def test_what_the_user_says_stands() -> None:
    plan = PlanOptions(n_ctx=77, flash_attn="off", type_k="f16")
    tuned = FOUND.apply(plan)
    assert (tuned.n_ctx, tuned.flash_attn, tuned.type_k, tuned.n_ubatch) == (77, "on", "q8_0", 256)
    kept = FOUND.apply(plan, said={"flash_attn", "type_k"})
    assert (kept.flash_attn, kept.type_k, kept.type_v) == ("off", "f16", "f16")
    layers = FOUND.apply(replace(plan, n_gpu_layers=2), said={"n_gpu_layers"})
    assert (layers.n_gpu_layers, layers.n_cpu_moe) == (2, 0)
    context = FOUND.threads(ContextOptions())
    assert (context.n_threads, context.n_threads_batch) == (4, 8)
