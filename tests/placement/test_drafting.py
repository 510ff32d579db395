"""A model and its draft, planned in one go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from localllm.engine.draft.draft import DraftGenerator
from localllm.engine.options import ContextOptions
from localllm.errors import DoesNotFit, UsageProblem
from localllm.generation import Message, Sampling
from localllm.placement import PlanOptions
from localllm.placement.drafting import beside, open_with_draft, plan_with_draft, taking
from localllm.placement.target import Target, TargetGpu
from tests.placement.conftest import cpu_only
from tests.support.tiny_models import tiny_llama

OPTIONS = PlanOptions(n_ctx=512, n_ubatch=128)
ONE_THREAD = ContextOptions(n_threads=1)


def gpu_target(free_bytes: int, host_bytes: int) -> Target:
    """A machine on paper."""
    gpu = TargetGpu("GPU", "", free_bytes, free_bytes, 0, None, "gpu", shares_host_memory=False)
    return Target((gpu,), host_bytes, host_bytes, None, 2, here=False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    main = tiny_llama(folder / "main.gguf", n_layer=8, n_embd=512, n_ff=1024, n_head=8)
    return main, tiny_llama(folder / "draft.gguf", n_layer=1, seed=1, n_ctx_train=256)


def test_both_open_and_answer(pair: tuple[Path, Path]):
    read: list[int] = []
    with open_with_draft(
        *pair, OPTIONS, target=cpu_only(), context=ONE_THREAD, advance=read.append
    ) as opened:
        assert (opened.main.context.n_ctx_seq, opened.draft.context.n_ctx_seq) == (512, 256)
        generator = DraftGenerator(opened.main.context, opened.draft.context)
        stream = generator.generate([Message("user", "hi")], Sampling(max_tokens=4))
        list(stream)
        assert len(stream.tokens) == 4
        assert opened.plan.total_bytes == (
            opened.main.plan.total_bytes + opened.draft.plan.total_bytes
        )
    assert opened.main.model.closed
    assert opened.draft.model.closed
    assert sum(read) == sum(path.stat().st_size for path in pair)


def test_what_is_taken_is_free_no_more():
    target = gpu_target(free_bytes=1000, host_bytes=500)
    (gpu,) = target.gpus
    less = taking(target, {gpu.name: 300}, 100)
    assert (less.gpus[0].free_bytes, less.host_available_bytes) == (700, 400)
    unified = replace(target, gpus=(replace(gpu, shares_host_memory=True),))
    less = taking(unified, {gpu.name: 300}, 100)
    assert (less.gpus[0].free_bytes, less.host_available_bytes) == (700, 100)
    assert taking(target, {gpu.name: 5000}, 5000).gpus[0].free_bytes == 0


def test_each_would_fit_alone_but_not_both(pair: tuple[Path, Path]):
    roomy = plan_with_draft(*pair, OPTIONS, target=cpu_only())
    assert roomy.runs
    enough = replace(cpu_only(), host_available_bytes=roomy.main.total_bytes + (1 << 20))
    assert plan_with_draft(pair[0], pair[0], OPTIONS, target=enough).draft.runs
    with pytest.raises(DoesNotFit, match=r"main.gguf needs .* beside the draft's") as caught:
        open_with_draft(*pair, OPTIONS, target=enough)
    assert caught.value.hint is not None


def test_the_draft_goes_first_and_the_model_takes_what_is_left(pair: tuple[Path, Path]):
    """On a GPU that holds the draft and half of the model."""
    target = gpu_target(free_bytes=1 << 33, host_bytes=1 << 33)
    whole = plan_with_draft(*pair, OPTIONS, target=target)
    assert whole.draft.n_offloaded == whole.draft.n_layers == 2
    assert whole.main.n_offloaded == whole.main.n_layers == 9
    short = whole.total_bytes - whole.main.devices[0].weights_bytes // 3
    tight = gpu_target(free_bytes=short, host_bytes=1 << 33)
    halves = plan_with_draft(*pair, OPTIONS, target=tight)
    assert halves.runs
    assert halves.draft.n_offloaded == 2
    assert 0 < halves.main.n_offloaded < 9
    rest = beside(tight, halves.draft)
    assert halves.main.devices[0].total_bytes <= rest.gpus[0].free_bytes


def test_other_vocabularies_are_refused_before_anything_is_loaded(
    pair: tuple[Path, Path], tmp_path: Path
):
    other = tiny_llama(tmp_path / "spm.gguf", vocab="spm")
    with pytest.raises(UsageProblem, match=r"spm.gguf cannot draft for main.gguf: .*llama, not gp"):
        open_with_draft(pair[0], other, OPTIONS, target=cpu_only())
