"""What a context for vectors takes, against what llama.cpp itself counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.options import Pooling
from localllm.formats.gguf import read_model
from localllm.placement import PlanOptions, beside_model, settled_plan, vector_options
from tests.placement.conftest import cpu_only
from tests.support import native_truth
from tests.support.tiny_models import tiny_bert, tiny_gemma3, tiny_llama

# llama.cpp's log rounds each buffer to 0.01 MiB.
ROUNDING_BYTES = 10486


@pytest.mark.skipif(not native_truth.available(), reason="no llama_get_memory_breakdown here")
@pytest.mark.parametrize(
    ("make", "pooling"), [(tiny_bert, "unspecified"), (tiny_llama, "mean"), (tiny_gemma3, "mean")]
)
@pytest.mark.parametrize("n_tokens_max", [100, 500])
def test_the_plan_is_what_is_allocated(
    tmp_path: Path, make: Callable[[Path], Path], pooling: Pooling, n_tokens_max: int
) -> None:
    path = make(tmp_path / "m.gguf")
    options = vector_options(PlanOptions(), n_tokens_max, pooling)
    plan = settled_plan(read_model(path), path, cpu_only(), options, exact=True)
    need = beside_model(plan)
    assert need.exact and not need.gpu_bytes
    with Model.load(path) as model, Context(model, options.context(options.n_ctx or 0)) as context:
        assert context.n_ubatch == context.n_batch >= n_tokens_max
        assert context.n_ubatch % context.n_seq_max == 0
        truth = native_truth.breakdown(context.handle)
        output = sum(one.output_bytes for one in context.buffers)
    held = sum(one.context + one.compute for one in truth.values())
    assert abs(need.total_bytes - held - output) <= 2 * ROUNDING_BYTES
    weights = sum(one.model for one in truth.values())
    assert plan.total_bytes == pytest.approx(need.total_bytes + weights, abs=2 * ROUNDING_BYTES)


def test_arithmetic_stands_in_where_llama_cpp_cannot_be_asked(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf")
    options = vector_options(PlanOptions(), 512, "mean")
    elsewhere = replace(cpu_only(), here=False)
    need = beside_model(settled_plan(read_model(path), path, elsewhere, options, exact=True))
    assert not need.exact
    assert need.total_bytes > 0
