"""Examples laid one after the other: each computed as if it were alone."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from localllm.finetune.training.batches import Batches, pack, predicted  # noqa: E402
from localllm.finetune.training.forward import scorer  # noqa: E402
from tests.finetune.tiny_torch import Row, rows, tiny  # noqa: E402

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3"]


def alone(module: object, row: Row) -> torch.Tensor:
    """Losses of a row's counted tokens from transformers' own attention and logits."""
    with torch.no_grad():
        ids = torch.from_numpy(row.ids.astype(np.int64))[None]
        logits = module(input_ids=ids, use_cache=False).logits[0].float()  # type: ignore[operator]
    places = predicted(row)
    chosen = torch.log_softmax(logits[places - 1], -1)
    return -chosen.gather(1, ids[0, places][:, None])[:, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_example_has_the_losses_it_has_alone(family: str) -> None:
    module = tiny(family)
    data = rows(4)
    wanted = torch.cat([alone(module, row) for row in data])
    whole = pack([[row] for row in data], range(4))
    with torch.no_grad():
        found = scorer(module).losses(whole)
    torch.testing.assert_close(found, wanted, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_computes_every_family_to_its_rounding(family: str) -> None:
    from localllm.finetune.training.adapters import AdapterOptions, attach

    module = tiny(family)
    adapters = attach(module, AdapterOptions(rank=2), 0)
    data = rows(3, shortest=30, longest=50)
    whole = pack([[row] for row in data], range(3))
    exact = scorer(module).losses(whole)
    score = scorer(module, torch.bfloat16)
    with torch.no_grad():
        judged = score.losses(whole)
    found = score.losses(whole)
    torch.testing.assert_close(judged, found.detach())
    assert found.detach().mean().item() == pytest.approx(exact.detach().mean().item(), rel=0.05)
    found.sum().backward()
    grads = [layer.b.grad for layer in adapters.layers.values()]
    assert all(one is not None and torch.isfinite(one).all() and one.any() for one in grads)


def test_nothing_is_computed_for_padding_or_after_the_last_predicted_token() -> None:
    data = rows(3)
    data[1].mask[-4:] = False  # an answer, and then a question that nothing answers
    whole = pack([[row] for row in data], [0, 1, 2])
    lengths = [len(data[0].ids) - 1, len(data[1].ids) - 5, len(data[2].ids) - 1]
    assert whole.segments == tuple(lengths)
    assert whole.n_tokens == sum(lengths)
    positions = whole.positions[0].tolist()
    assert positions == [p for n in lengths for p in range(n)]
    assert whole.n_targets == sum(int(row.mask.sum()) for row in data)


def test_the_first_token_is_never_predicted() -> None:
    row = Row(np.array([5, 6, 7], dtype=np.int32), np.array([True, True, True]))
    whole = pack([[row]], [0])
    assert whole.targets.tolist() == [6, 7]
    assert whole.rows.tolist() == [0, 1]


def test_every_example_once_an_epoch_and_the_seed_decides_the_order() -> None:
    items = [[row] for row in rows(23)]
    batches = Batches(items, 4, 64, seed=3)
    assert batches.steps_per_epoch == 6
    epoch = [n for step in range(6) for one in batches.step(step) for n in one.items]
    assert sorted(epoch) == list(range(23))
    second = [n for step in range(6, 12) for one in batches.step(step) for n in one.items]
    assert sorted(second) == list(range(23))
    assert second != epoch
    again = Batches(items, 4, 64, seed=3)
    assert [one.items for one in again.step(7)] == [one.items for one in batches.step(7)]
    assert [one.items for one in Batches(items, 4, 64, seed=4).step(0)] != [
        one.items for one in batches.step(0)
    ]


def test_packs_hold_at_most_so_many_tokens_but_never_cut_an_example() -> None:
    items = [[row] for row in rows(30, longest=60)]
    batches = Batches(items, 30, 64, seed=0)
    packs = batches.step(0)
    for one in packs:
        assert one.n_tokens <= 64 or one.n_items == 1
    assert sum(one.n_tokens for one in packs) == sum(batches.sizes)
    largest = max(one.n_tokens for one in packs)
    assert sum(batches.sizes[n] for n in batches.largest_pack) >= largest - 1
