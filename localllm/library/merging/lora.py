"""LoRA adapters in GGUF as changes of a base's tensors.

The rules are those of llama.cpp (`llama_adapter_lora_init_impl`, `build_lora_mm`,
`build_inp_embd`): a weight W becomes W + scale * (alpha / r) * B @ A, and W + scale * B @ A where
alpha is absent or 0; r is the inner dimension. Adapters of the token embedding lie the other
way round: their `lora_a` has a row for each token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.closing import Closing
from localllm.errors import DamagedFile, UsageProblem
from localllm.library.merging.tensors import GGUFTensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from localllm.formats.gguf import GGUFModel

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
_OTHER_BASE = "use the model that it was trained on: localllm show ADAPTER"


@dataclass(frozen=True)
class Factors:
    """One tensor's change, `scale * left @ right` for each matrix of the stack.

    left: [n_matrices, n_out, r], right: [n_matrices, r, n_in].
    """

    left: NDArray[np.float32]
    right: NDArray[np.float32]
    scale: float

    @property
    def is_zero(self) -> bool:
        return self.scale == 0.0 or not self.left.any() or not self.right.any()

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of the change, counted over the whole stack."""
        import numpy as np

        n_out = self.left.shape[1]
        parts = []
        for i in range(start // n_out, (stop - 1) // n_out + 1):
            low, high = max(start - i * n_out, 0), min(stop - i * n_out, n_out)
            parts.append(self.left[i, low:high] @ self.right[i])
        change: NDArray[np.float32] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        change *= np.float32(self.scale)
        return change


class Adapter(Closing):
    """One adapter, to be applied with `scale`.

    Raises DamagedFile for what is no whole LoRA, UsageProblem for kinds that cannot be merged.
    """

    def __init__(self, path: Path, scale: float, name: str | None = None) -> None:
        if not math.isfinite(scale):
            raise UsageProblem(f"{name or path.name}: a scale of {scale} means nothing")
        self.scale = scale
        self.path = path
        self._file = GGUFTensors([path], name or path.name)
        try:
            self.header: GGUFModel = self._file.model
            self._check_kind()
            self.alpha = self._alpha()
            self.tensors, self.ignored = self._pairs()
        except BaseException:
            self._file.close()
            raise

    @property
    def name(self) -> str:
        return self._file.name

    def rank(self, tensor: str) -> int:
        return self.header.tensors[f"{tensor}.lora_b"].shape[0]

    def factors(self, tensor: str) -> Factors:
        """The two factors, read now. Raises DamagedFile where a number is not finite."""
        a, b = self._stack(f"{tensor}.lora_a"), self._stack(f"{tensor}.lora_b")
        scale = self.scale * (self.alpha / self.rank(tensor) if self.alpha else 1.0)
        if tensor == EMBEDDING:
            return Factors(a, b.transpose(0, 2, 1), scale)
        return Factors(b, a, scale)

    def close(self) -> None:
        self._file.close()

    def _stack(self, name: str) -> NDArray[np.float32]:
        """A tensor as [n_matrices, rows, columns]."""
        import numpy as np

        layout = self._file.layout(name)
        values = self._file.values(name, self._file.raw(name, 0, layout.n_rows))
        if not np.isfinite(values).all():
            raise DamagedFile(
                f"{self.name}: {name} holds numbers that are not finite", "train it again"
            )
        n_rows = layout.shape[1] if len(layout.shape) > 1 else 1
        return values.reshape(-1, n_rows, layout.n_per_row)

    def _check_kind(self) -> None:
        header = self.header
        if header.kind != "adapter":
            raise DamagedFile(f"{self.name} is no LoRA adapter but a {header.kind}")
        kind = header.text("adapter.type", "lora")
        if kind != "lora":
            raise UsageProblem(f"{self.name} is an adapter of type {kind!r}, not lora")
        if "adapter.alora.invocation_tokens" in header.metadata:
            raise UsageProblem(
                f"{self.name} acts only after its invocation tokens: merged it would always act",
                f"localllm chat MODEL --lora {self.name}",
            )

    def _alpha(self) -> float:
        alpha = self.header.f32("adapter.lora.alpha", 0.0)
        if not math.isfinite(alpha):
            raise DamagedFile(f"{self.name}: its alpha is {alpha}", "train or convert it again")
        return alpha

    def _pairs(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the tensors that it changes, and those that llama.cpp passes over."""
        found: dict[str, set[str]] = {}
        ignored = []
        for name in self.header.tensors:
            stem, dot, half = name.rpartition(".")
            if dot and half in ("lora_a", "lora_b"):
                found.setdefault(stem, set()).add(half)
            elif name.endswith("_norm.weight"):
                ignored.append(name)
            else:
                raise DamagedFile(f"{self.name}: {name} is no part of a LoRA")
        for tensor, halves in found.items():
            if len(halves) < 2:
                raise DamagedFile(f"{self.name}: {tensor} has its {halves.pop()} alone")
            self._check_ranks(tensor)
        if not found:
            raise DamagedFile(f"{self.name} changes no tensor")
        return tuple(found), tuple(ignored)

    def _check_ranks(self, tensor: str) -> None:
        a, b = (self.header.tensors[f"{tensor}.lora_{half}"].shape for half in "ab")
        a, b = _matrices(a), _matrices(b)
        inner = a[0] if tensor == EMBEDDING else a[1]
        if b[0] != inner or a[2] != b[2]:
            raise DamagedFile(
                f"{self.name}: lora_a of {tensor} has rank {inner}, its lora_b {b[0]}"
                if b[0] != inner
                else f"{self.name}: {tensor} has {a[2]} and {b[2]} matrices"
            )


def check_fits(adapter: Adapter, base: GGUFModel) -> None:
    """Raise UsageProblem, naming the reason, where `adapter` was made for another model."""
    own = adapter.header.architecture
    if own != base.architecture:
        raise UsageProblem(
            f"{adapter.name} is for another base: it is of architecture {own}, {base.name} of "
            f"{base.architecture}",
            _OTHER_BASE,
        )
    for tensor in adapter.tensors:
        _check_tensor(adapter, tensor, base)


def _check_tensor(adapter: Adapter, tensor: str, base: GGUFModel) -> None:
    stored = EMBEDDING if tensor == OUTPUT and OUTPUT not in base.tensors else tensor
    known = base.tensors.get(stored)
    if known is None:
        raise UsageProblem(
            f"{adapter.name} is for another base: it changes {tensor}, which {base.name} does "
            "not have",
            _OTHER_BASE,
        )
    wanted = _changed_shape(adapter.header, tensor)
    if _matrices(known.shape) != wanted:
        raise UsageProblem(
            f"{adapter.name} is for another base: its {tensor} is {_times(wanted)}, that of "
            f"{base.name} {_times(_matrices(known.shape))}",
            _OTHER_BASE,
        )
    if f"{tensor.removesuffix('.weight')}.scale" in base.tensors:
        raise UsageProblem(
            f"{tensor} of {base.name} has a scale of its own, which the adapter's change does "
            "not go through",
            f"localllm chat MODEL --lora {adapter.name}",
        )


def _changed_shape(header: GGUFModel, tensor: str) -> tuple[int, int, int]:
    """(columns, rows, matrices) of the change."""
    a = _matrices(header.tensors[f"{tensor}.lora_a"].shape)
    b = _matrices(header.tensors[f"{tensor}.lora_b"].shape)
    return (b[1], a[1], a[2]) if tensor == EMBEDDING else (a[0], b[1], a[2])


def _matrices(shape: tuple[int, ...]) -> tuple[int, int, int]:
    columns, rows, *rest = (*shape, 1, 1)
    return columns, rows, math.prod(rest)


def _times(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape if shape[2] != 1 else shape[:2]))


@dataclass(frozen=True)
class Change:
    """The sum of what several adapters do to one tensor."""

    parts: tuple[Factors, ...]

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        change = self.parts[0].rows(start, stop)
        for part in self.parts[1:]:
            change += part.rows(start, stop)
        return change


def change_of(adapters: Mapping[str, tuple[Adapter, ...]], tensor: str) -> Change | None:
    """What `adapters` (by tensor) do to `tensor`; None where that is nothing."""
    parts = [adapter.factors(tensor) for adapter in adapters.get(tensor, ())]
    acting = tuple(part for part in parts if not part.is_zero)
    return Change(acting) if acting else None
