"""Whether models fit together: sums of plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from localllm.engine.quality.chunks import batch_size
from localllm.formats.gguf import read_model
from localllm.library.describe import loose_model
from localllm.library.quality.memory import fit_together
from localllm.placement import PlanOptions, Target, plan_for

GIB = 1 << 30
OPTIONS = PlanOptions(n_ctx=512, n_batch=512)


def machine(available_bytes: int) -> Target:
    return Target((), available_bytes, 64 * GIB, None, 2, here=True)


def test_the_sum_of_plans_and_rows_of_logits_decides(files: Path) -> None:
    size = batch_size(512)
    models = [loose_model(files / f"{name}.gguf") for name in ("base", "small", "smaller")]
    needs = []
    for model in models:
        plan = plan_for(read_model(model.path), machine(GIB), OPTIONS)
        needs.append(plan.host.total_bytes + 4 * 302 * size.n_rows)
    assert fit_together(models, machine(sum(needs)), OPTIONS, size)
    assert not fit_together(models, machine(sum(needs) - 1), OPTIONS, size)
    assert fit_together(models[:2], machine(sum(needs) - 1), OPTIONS, size)
    assert not fit_together(models, replace(machine(0), host_total_bytes=GIB), OPTIONS, size)
