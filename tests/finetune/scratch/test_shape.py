"""Sizes: counted right, fit to be quantized, and as large as the time teaches."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")

from localllm.errors import UsageProblem
from localllm.finetune.scratch.model import begin
from localllm.finetune.scratch.recipe import TrainRecipe, merged
from localllm.finetune.scratch.shape import LADDER, choose, shape_of, smallest, worth


@pytest.mark.parametrize(
    "named", [{}, {"kv_heads": 1}, {"width": 96, "heads": 2}, {"ff": 64, "layers": 3}]
)
def test_parameters_are_counted_as_torch_has_them(named: dict[str, int]) -> None:
    shape = shape_of(TrainRecipe(context=64, **named), 300, 64, 2)  # type: ignore[arg-type]
    module = begin(shape, 0)
    assert shape.n_params == sum(p.numel() for p in module.parameters())
    assert module.lm_head.weight is module.model.embed_tokens.weight


def test_the_ladder_goes_from_5_to_30_million_in_rows_that_quantize() -> None:
    shapes = [shape_of(TrainRecipe(), 4096, width, layers) for width, layers in LADDER]
    sizes = [shape.n_params for shape in shapes]
    assert sizes == sorted(sizes)
    assert 5e6 < sizes[0] < 6e6 and 25e6 < sizes[-1] < 30e6
    assert all(shape.has_k_rows and shape.head_size == 64 for shape in shapes)


def test_a_faster_machine_and_more_time_take_a_larger_model() -> None:
    minutes = TrainRecipe(budget=60)
    tried = smallest(minutes, 8192, 10**8)
    found = [choose(minutes, tried, speed, 1e9).n_params for speed in (1e10, 1e12, 1e13, 1e15)]
    assert found == sorted(found)
    assert found[0] == tried.n_params and found[-1] > 27e6
    # each sees 20 tokens a parameter, or is the smallest
    chosen = choose(minutes, tried, 1e13, 1e9)
    assert 3600 * 1e13 / chosen.flops_per_token >= 20 * chosen.n_params
    # a text that is read again and again teaches less
    assert choose(minutes, tried, 1e15, 1e5) == tried
    assert choose(TrainRecipe(steps=5), tried, 1e15, 1e9) == tried
    named = TrainRecipe(budget=60, layers=3, width=320)
    assert choose(named, smallest(named, 8192, 10**8), 1e15, 1e9).layers == 3
    assert smallest(named, 8192, 10**8).width == 320


def test_what_repeated_text_is_worth() -> None:
    assert worth(100, 1000) == 100
    assert worth(4000, 1000) == pytest.approx(4000, rel=0.1)  # four times: nearly as new
    assert worth(1e9, 1000) == pytest.approx(16.4 * 1000, rel=0.01)


@pytest.mark.parametrize(
    "named",
    [
        {"width": 100}, {"ff": 33}, {"budget": 5, "steps": 5}, {"steps": 5, "epochs": 1.0},
        {"held_out": "0%"}, {"held_out": "none"}, {"vocab_size": 100}, {"context": 8},
        {"type": "Q4_K"}, {"learn": "some"}, {"budget": 0.0},
    ],
)  # fmt: skip
def test_options_that_contradict_or_mean_nothing(named: dict[str, object]) -> None:
    with pytest.raises(UsageProblem):
        merged({}, named)


@pytest.mark.parametrize("named", [{"width": 64, "heads": 5}, {"heads": 4, "kv_heads": 3}])
def test_heads_that_do_not_divide(named: dict[str, int]) -> None:
    with pytest.raises(UsageProblem, match="divide"):
        shape_of(TrainRecipe(**named), 300, 64, 2)  # type: ignore[arg-type]


def test_a_file_has_the_options_and_flags_win() -> None:
    found = merged({"layers": 3, "budget": 5, "data": ["x"]}, {"layers": 4, "type": "bf16"})
    assert (found.layers, found.budget, found.data, found.type) == (4, 5.0, ("x",), "BF16")
    with pytest.raises(UsageProblem, match="unknown key 'rank'"):
        merged({"rank": 3}, {})
