"""Layers whose weights stay in their file's bytes: made into numbers when they are needed.

On the CPU the bytes are the mapped file's and ggml's code reads them; on a GPU they lie in its
memory and torch does (`dequantize`).

A forward pass makes a layer's numbers and lets go of them, and the backward pass makes them
again, so memory follows the size of the GGUF and not of its numbers. The weights are frozen;
what is trained (an adapter) stands beside. Products of large matrices go in blocks of rows, so
the scratch memory has an end whatever the vocabulary.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from localllm.finetune.model.dequantize import dequantize
from localllm.finetune.model.stored import Stored
from localllm.formats.hf import Layout

BLOCK_ELEMENTS = 16 << 20  # numbers of a block: 64 MiB of float32
_scratch = threading.local()


class FrozenRows:
    """A matrix (n_rows, n_per_row) in its stored bytes, its rows in transformers' order."""

    def __init__(self, stored: Stored, layout: Layout) -> None:
        if layout.shift or len(stored.shape) != 2:
            raise ValueError(f"{stored.name} is no plain matrix")
        self._stored = stored
        self._order = layout.row_order(stored.shape[0])
        self.shape = torch.Size(stored.shape)
        self.device = torch.device("cpu")  # where its numbers are made
        self.block = max(1, BLOCK_ELEMENTS // stored.shape[1])

    @property
    def stored(self) -> Stored:
        """The bytes, and what they mean."""
        return self._stored

    def take(self, start: int, stop: int, out: np.ndarray[Any, Any] | None = None) -> torch.Tensor:
        """Rows `start` to `stop` as float32 on the CPU; in `out` where it is given."""
        which = slice(start, stop) if self._order is None else self._order[start:stop]
        return torch.from_numpy(self.stored.rows(which, out))

    def pick(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of these numbers (n), as float32 on the CPU."""
        wanted = rows.cpu().numpy()
        return torch.from_numpy(
            self.stored.rows(wanted if self._order is None else self._order[wanted])
        )

    def borrow(self, start: int, stop: int, like: torch.Tensor) -> torch.Tensor:
        """Rows in the type and on the device of `like`, good until this thread's next call."""
        n, width = stop - start, self.shape[1]
        held: np.ndarray[Any, Any] | None = getattr(_scratch, "numbers", None)
        if held is None or held.size < n * width:
            held = np.empty(n * width, dtype=np.float32)
            _scratch.numbers = held
        found = self.take(start, stop, held[: n * width].reshape(n, width))
        return found.to(device=like.device, dtype=like.dtype)

    def spans(self) -> list[tuple[int, int]]:
        """The blocks of rows that one product goes in."""
        n = self.shape[0]
        return [(i, min(i + self.block, n)) for i in range(0, n, self.block)]


class DeviceRows(FrozenRows):
    """Rows whose bytes are a tensor on a device, made into numbers there by torch. They lie in
    transformers' order already."""

    def __init__(self, stored: Stored, layout: Layout, device: torch.device) -> None:
        super().__init__(stored, layout)
        data = stored.data if self._order is None else stored.data[self._order]
        # of a mapped file: a tensor on the CPU itself would be the file
        self._packed = torch.from_numpy(data).to(device)
        self.device = self._packed.device

    @property
    def packed(self) -> torch.Tensor:
        """The bytes, (n_rows, bytes a row)."""
        return self._packed

    @property
    def _row_order(self) -> torch.Tensor | None:
        return None

    def _numbers(self, packed: torch.Tensor) -> torch.Tensor:
        return dequantize(packed, self._stored.type.name, self.shape[1])

    def take(self, start: int, stop: int, out: np.ndarray[Any, Any] | None = None) -> torch.Tensor:
        """Rows `start` to `stop` as float32, on the device."""
        order = self._row_order
        if order is None:
            return self._numbers(self.packed[start:stop])
        return self._numbers(self.packed.index_select(0, order[start:stop]))

    def pick(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of these numbers (n), as float32 on the device."""
        order = self._row_order
        wanted = rows if order is None else order.index_select(0, rows)
        return self._numbers(self.packed.index_select(0, wanted))

    def borrow(self, start: int, stop: int, like: torch.Tensor) -> torch.Tensor:
        """Rows in the type of `like`, which is on the same device."""
        return self.take(start, stop).to(like.dtype)


class PartedRows(DeviceRows):
    """Rows whose bytes are a layer's parameter `packed` (n_rows, bytes a row), so that processes
    can part them (FSDP). They are there while that layer computes, and only then: as numbers by
    ggml's code where that is on the CPU, by torch elsewhere."""

    def __init__(self, stored: Stored, layout: Layout) -> None:
        FrozenRows.__init__(self, stored, layout)
        self._owner: nn.Module | None = None
        self._order_there: torch.Tensor | None = None

    def hold_in(self, owner: nn.Module) -> None:
        """Give `owner` the parameter, without bytes yet."""
        empty = torch.empty(self._stored.data.shape, dtype=torch.uint8, device="meta")
        owner.register_parameter("packed", nn.Parameter(empty, requires_grad=False))
        self._owner = owner

    @property
    def packed(self) -> torch.Tensor:
        assert self._owner is not None
        packed = self._owner.get_parameter("packed")
        if hasattr(packed, "full_tensor"):
            raise RuntimeError("a parted layer's bytes are there only while it computes")
        return packed

    @property
    def stored(self) -> Stored:
        packed = self.packed
        # by its address: a tensor that was seen as an array can never be let go of by FSDP
        held = (ctypes.c_uint8 * packed.numel()).from_address(packed.data_ptr())
        return replace(self._stored, data=np.ctypeslib.as_array(held).reshape(packed.shape))

    @property
    def _row_order(self) -> torch.Tensor | None:
        if self._order is not None and self._order_there is None:
            self._order_there = torch.from_numpy(self._order).to(self.packed.device)
        return self._order_there

    @property
    def _by_ggml(self) -> bool:
        return self.packed.device.type == "cpu"

    def take(self, start: int, stop: int, out: np.ndarray[Any, Any] | None = None) -> torch.Tensor:
        kind = FrozenRows if self._by_ggml else DeviceRows
        return kind.take(self, start, stop, out)

    def pick(self, rows: torch.Tensor) -> torch.Tensor:
        return (FrozenRows if self._by_ggml else DeviceRows).pick(self, rows)

    def borrow(self, start: int, stop: int, like: torch.Tensor) -> torch.Tensor:
        return (FrozenRows if self._by_ggml else DeviceRows).borrow(self, start, stop, like)


class _Product(torch.autograd.Function):
    """x W^T for frozen rows: W is made for the product and again for the gradient of x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rows: FrozenRows) -> torch.Tensor:
        ctx.rows, ctx.dtype = rows, x.dtype
        flat = x.reshape(-1, x.shape[-1])
        spans = rows.spans()
        if len(spans) == 1:
            product = functional.linear(flat, rows.borrow(*spans[0], flat))
        else:
            product = flat.new_empty((flat.shape[0], rows.shape[0]))
            for start, stop in spans:
                product[:, start:stop] = functional.linear(flat, rows.borrow(start, stop, flat))
        # not as a view of itself: an adapter adds into it
        return product if x.dim() == 2 else product.reshape(*x.shape[:-1], rows.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        rows: FrozenRows = ctx.rows
        grad = grads[0]
        flat = grad.reshape(-1, grad.shape[-1])
        spans = rows.spans()
        if len(spans) == 1:
            found = flat @ rows.borrow(*spans[0], flat)
        else:
            found = flat.new_zeros((flat.shape[0], rows.shape[1]))
            for start, stop in spans:
                found.addmm_(flat[:, start:stop], rows.borrow(start, stop, flat))
        return found.reshape(*grad.shape[:-1], rows.shape[1]).to(ctx.dtype), None


class QuantizedLinear(nn.Linear):
    """`nn.Linear` on frozen rows. A subclass, since adapters are put on linear layers.

    `weight` makes the whole matrix anew at each access (float32, where the bytes are): for
    looking at, for DoRA's norms, for merging. There is no parameter `weight`, and nothing of it
    is in the module's state.
    """

    def __init__(self, rows: FrozenRows, bias: torch.Tensor | None) -> None:
        nn.Module.__init__(self)  # Linear's own makes a parameter
        self.out_features, self.in_features = rows.shape
        self.rows = rows
        frozen = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.register_parameter("bias", frozen)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        return self.rows.take(0, self.out_features)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        multiply: Any = _Product.apply
        product: torch.Tensor = multiply(input, self.rows)
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {self.rows.stored.type.name}"


class QuantizedEmbedding(nn.Embedding):
    """`nn.Embedding` on frozen rows: only those of the tokens at hand are made into numbers."""

    def __init__(
        self, rows: FrozenRows, padding_idx: int | None, dtype: torch.dtype, scale: float | None
    ) -> None:
        nn.Module.__init__(self)  # Embedding's own makes a parameter
        self.num_embeddings, self.embedding_dim = rows.shape
        self.padding_idx = padding_idx
        self.rows = rows
        self.scale = scale  # Gemma's, rounded to the type as transformers does
        # an empty tensor that the module's `.to(...)` moves along
        self.register_buffer("like", torch.empty(0, dtype=dtype), persistent=False)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        return self.rows.take(0, self.num_embeddings)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        dtype = self.get_buffer("like").dtype
        if input.device.type == "cpu":
            tokens, places = torch.unique(input, return_inverse=True)
            found = self.rows.pick(tokens).to(dtype)[places]
        else:  # to find what is there twice, the processor would have to wait for the device
            found = self.rows.pick(input.reshape(-1)).to(dtype).reshape(*input.shape, -1)
        return found if self.scale is None else found * torch.tensor(self.scale, dtype=dtype)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.rows.stored.type.name}"
