"""The chunked loss against the plain one, values and gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from torch.nn.functional import cross_entropy  # noqa: E402

from localllm.finetune.training import loss as subject  # noqa: E402
from localllm.finetune.training.loss import DenseBlocks, Head, token_losses  # noqa: E402

N, WIDTH, VOCAB = 37, 16, 301


class InBlocks:
    """The matrix in blocks of 70 rows, as a quantized one is handed out."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight, self.n_rows = weight, len(weight)

    def __call__(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        for first in range(0, self.n_rows, 70):
            yield first, min(first + 70, self.n_rows), self.weight[first : first + 70]

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        return self.weight[ids]


@pytest.fixture(params=[1 << 30, 4 * N * 32], ids=["at once", "in blocks"])
def _buffer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "BUFFER_BYTES", request.param)
    monkeypatch.setattr(subject, "_LEAST_COLUMNS", 8)


def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, scale: float,
          softcap: float | None) -> torch.Tensor:  # fmt: skip
    logits = scale * hidden @ weight.t()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return cross_entropy(logits, targets, reduction="none")


@pytest.mark.usefixtures("_buffer")
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("blocks", ["dense", "in blocks", "learned"])
def test_values_and_gradients_are_those_of_the_plain_loss(
    blocks: str, scale: float, softcap: float | None
) -> None:
    random = torch.Generator().manual_seed(1)
    hidden = torch.randn(N, WIDTH, generator=random, requires_grad=True)
    weight = torch.randn(VOCAB, WIDTH, generator=random, requires_grad=blocks == "learned")
    targets = torch.randint(VOCAB, (N,), generator=random)
    counts = torch.rand(N, generator=random)  # tokens need not count the same

    wanted = plain(hidden, weight, targets, scale, softcap)
    inputs = [hidden, weight] if blocks == "learned" else [hidden]
    wanted_grads = torch.autograd.grad((wanted * counts).sum(), inputs)

    own = InBlocks(weight) if blocks == "in blocks" else DenseBlocks(weight)
    found = token_losses(hidden, targets, Head(own, scale, softcap))
    grads = torch.autograd.grad((found * counts).sum(), inputs)

    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    for one, other in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.full((2, 4), 200.0, requires_grad=True)
    weight = torch.eye(4).repeat(3, 1)
    found = token_losses(hidden, torch.tensor([0, 11]), Head(DenseBlocks(weight)))
    assert torch.isfinite(found).all()
    assert found.tolist() == pytest.approx([torch.log(torch.tensor(12.0)).item()] * 2)


def test_nothing_to_predict_is_no_loss() -> None:
    hidden = torch.zeros(0, 4, requires_grad=True)
    found = token_losses(hidden, torch.zeros(0, dtype=torch.long), Head(DenseBlocks(torch.eye(4))))
    found.sum().backward()
    assert found.shape == (0,)
    assert hidden.grad is not None


def test_products_in_bfloat16_are_the_same_to_its_rounding() -> None:
    random = torch.Generator().manual_seed(2)
    hidden = torch.randn(N, WIDTH, generator=random, requires_grad=True)
    weight = torch.randn(VOCAB, WIDTH, generator=random)
    targets = torch.randint(VOCAB, (N,), generator=random)
    exact = token_losses(hidden, targets, Head(DenseBlocks(weight)))
    (wanted,) = torch.autograd.grad(exact.sum(), [hidden])
    found = token_losses(hidden, targets, Head(DenseBlocks(weight), dtype=torch.bfloat16))
    (grad,) = torch.autograd.grad(found.sum(), [hidden])
    assert found.dtype == grad.dtype == torch.float32
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0.05)
    assert torch.cosine_similarity(grad, wanted).min() > 0.999


@pytest.mark.parametrize("n", [1, 100, 4096])
def test_the_buffer_is_as_small_however_many_count(n: int) -> None:
    head = Head(DenseBlocks(torch.empty(262_144, 0)))
    assert head.columns(n) * n * 4 <= subject.BUFFER_BYTES


def test_no_more_than_the_buffer_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing as large as the logits is made, whatever the pass."""
    monkeypatch.setattr(subject, "BUFFER_BYTES", 1 << 16)
    n, vocab = 64, 8192
    made: list[int] = []

    class Sizes(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, call, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            found = call(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor):
                made.append(found.numel())
            return found

    hidden = torch.randn(n, 8, requires_grad=True)
    head = Head(DenseBlocks(torch.randn(vocab, 8)))
    with Sizes():
        token_losses(hidden, torch.zeros(n, dtype=torch.long), head).sum().backward()
    assert max(made) <= max(vocab * 8, n * subject._LEAST_COLUMNS)
