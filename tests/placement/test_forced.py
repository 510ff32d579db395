"""Plans of what the user chose: a split, one GPU, experts or the cache in main memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from localllm.engine import build
from localllm.engine.load import LoadOptions
from localllm.engine.model import Model
from localllm.errors import GpuRequired, UsageProblem
from localllm.formats.gguf import GGUFModel, read_model
from localllm.hardware import detect
from localllm.placement import Plan, PlanOptions, Target, plan_for, target_on_paper, this_machine
from localllm.placement.opening import check_gpu, settled_plan
from tests.support.tiny_models import tiny_llama, tiny_qwen3moe

GIB = 1 << 30


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen3moe(tmp_path_factory.mktemp("moe") / "moe.gguf")


@pytest.fixture(scope="module")
def header(moe: Path) -> GGUFModel:
    return read_model(moe)


def on(n_gpus: int) -> Target:
    return target_on_paper(detect(), vram_bytes=[4 * GIB] * n_gpus)


def plan(header: GGUFModel, n_gpus: int, **options: object) -> Plan:
    return plan_for(header, on(n_gpus), PlanOptions(n_ctx=512, **options))  # type: ignore[arg-type]


def experts(header: GGUFModel, *layers: int) -> int:
    """Bytes of the experts' matrices of these layers, straight off the header."""
    names = tuple(f"blk.{i}." for i in layers)
    return sum(
        t.size_bytes for name, t in header.tensors.items()
        if name.startswith(names) and name.endswith("_exps.weight")
    )  # fmt: skip


def test_experts_move_from_the_gpu_to_main_memory(header: GGUFModel) -> None:
    whole, moved = plan(header, 1), plan(header, 1, n_cpu_moe=1)
    size = experts(header, 0)
    assert size > 0
    assert whole.devices[0].weights_bytes - moved.devices[0].weights_bytes == size
    assert moved.host.weights_bytes - whole.host.weights_bytes == size
    assert moved.weights_bytes == whole.weights_bytes
    assert moved.load.n_cpu_moe == 1
    every = plan(header, 1, n_cpu_moe=99)
    layers = range(header.arch_u32("block_count"))
    assert whole.devices[0].weights_bytes - every.devices[0].weights_bytes == experts(
        header, *layers
    )


def test_the_cache_stays_in_main_memory(header: GGUFModel) -> None:
    whole, moved = plan(header, 1), plan(header, 1, no_kv_offload=True)
    assert moved.devices[0].kv_bytes == 0
    assert moved.host.kv_bytes == whole.devices[0].kv_bytes > 0
    assert moved.context.offload_kqv is False


def test_a_split_of_the_users_is_the_layout(header: GGUFModel) -> None:
    n = header.arch_u32("block_count") + 1
    one_sided = plan(header, 2, tensor_split=(1.0, 0.0))
    assert [d.n_layers + d.holds_output for d in one_sided.devices] == [n, 0]
    other = plan(header, 2, tensor_split=(0.0, 1.0), n_gpu_layers=2)
    assert [d.n_layers + d.holds_output for d in other.devices] == [0, 2]
    assert other.load.n_gpu_layers == 2


def test_split_mode_none_uses_the_main_gpu_alone(header: GGUFModel) -> None:
    chosen = plan(header, 2, split_mode="none", main_gpu=1)
    assert [d.name for d in chosen.devices] == ["GPU #2"]
    assert plan(header, 2, split_mode="none", main_gpu=-1).devices == ()
    with pytest.raises(UsageProblem):
        plan(header, 2, split_mode="none", main_gpu=2)


def test_what_is_not_planned_says_so(header: GGUFModel) -> None:
    rows = plan(header, 2, split_mode="row", tensor_split=(3.0, 1.0))
    assert rows.unplanned is not None
    assert "row" in rows.unplanned
    assert (rows.load.split_mode, rows.load.tensor_split) == ("row", (3.0, 1.0))
    assert rows.load.devices is None
    assert plan(header, 1, split_mode="row").unplanned is None


def test_requiring_gpus_refuses_what_was_sent_to_main_memory(header: GGUFModel, moe: Path) -> None:
    check_gpu(moe, plan(header, 1), on(1))
    for options in ({"n_cpu_moe": 1}, {"no_kv_offload": True}):
        with pytest.raises(GpuRequired):
            check_gpu(moe, plan(header, 1, **options), on(1))


def test_an_exact_plan_does_not_ask_llama_cpp_about_the_impossible(moe: Path) -> None:
    options = PlanOptions(n_ctx=2_000_000_000)
    found = settled_plan(read_model(moe), moe, this_machine(), options, exact=True)
    assert not found.runs
    assert found.basis == "arithmetic"


def test_llama_cpp_takes_the_override(moe: Path, tmp_path: Path) -> None:
    with Model.load(moe, LoadOptions(n_cpu_moe=1)) as model:
        assert model.info.n_layer == header_layers(moe)
    with Model.load(tiny_llama(tmp_path / "dense.gguf"), LoadOptions(n_cpu_moe=3)) as model:
        assert model.info.n_layer > 0  # nothing to move
    with pytest.raises(UsageProblem):
        Model.load(moe, LoadOptions(n_cpu_moe=10**6))


def header_layers(path: Path) -> int:
    return read_model(path).arch_u32("block_count")


@pytest.mark.gpu
@pytest.mark.skipif(
    not any(d.offloads for d in build.devices()), reason="this build of llama.cpp has no GPU device"
)
@pytest.mark.parametrize(
    "options",
    [{}, {"n_cpu_moe": 1}, {"no_kv_offload": True}, {"n_gpu_layers": 2}, {"split_mode": "none"},
     {"tensor_split": (1.0, 3.0)}],
)  # fmt: skip
def test_each_device_takes_what_was_predicted(moe: Path, options: dict[str, object]) -> None:
    from localllm.library.bench.conditions.memory import device_memory
    from localllm.placement import open_model

    wanted = PlanOptions(n_ctx=512, **options)  # type: ignore[arg-type]
    exact = settled_plan(read_model(moe), moe, this_machine(), wanted, exact=True)
    with open_model(moe, wanted) as opened:
        opened.plan = exact
        for memory in device_memory(opened):
            # llama.cpp's log rounds each of several buffers to 0.01 MiB
            assert abs(memory.predicted_bytes - memory.measured_bytes) < 4 * 10486
