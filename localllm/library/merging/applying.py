"""Adapters added to a base's tensors, row by row.

Each touched row is dequantized, changed in float32 and stored in its new type; what survives of
the change is summed up on the way. Every other tensor is copied, or only changes its type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from localllm.closing import Closing
from localllm.errors import DamagedFile, EngineError, UsageProblem
from localllm.library.merging.lora import (
    EMBEDDING,
    OUTPUT,
    Adapter,
    Change,
    change_of,
    check_fits,
)
from localllm.library.merging.pipeline import Workers
from localllm.library.merging.result import TensorOutcome
from localllm.library.merging.survival import Tally, tally
from localllm.library.merging.tensors import GGUFTensors, row_spans

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from localllm.engine.ggml_types import RowType
    from localllm.formats.gguf import GGMLType
    from localllm.library.merging.ggufout import GGUFOut
    from localllm.library.merging.importance import Importance

SAMPLE_ELEMENTS = 1 << 16  # of each tensor, to try a type
_SAMPLE_BLOCKS = 8


@dataclass(frozen=True)
class Output:
    """A tensor of the result, made from the base's tensor `source`."""

    name: str
    source: str
    changed: bool


@dataclass(frozen=True)
class _Rows:
    start: int
    stop: int
    raw: NDArray[np.uint8]
    importance: NDArray[np.float32] | None


class LoraMerge(Closing):
    """A base and the adapters that go into it, checked against each other.

    Where the adapters change the token embedding and the base has no output of its own (it uses
    the embedding for both), the result gets one: LoRA changes only what the tensor was trained
    as, and llama.cpp cannot run such an adapter at all. `untied` says so.
    Raises UsageProblem (another base, the same adapter twice, nothing to change), DamagedFile.
    """

    def __init__(self, base: GGUFTensors, adapters: Sequence[Adapter]) -> None:
        self.base = base
        self.adapters = tuple(adapters)
        if len({adapter.path.resolve() for adapter in adapters}) < len(adapters):
            raise UsageProblem("one adapter is given twice", "give it once, with the sum of both")
        for adapter in adapters:
            check_fits(adapter, base.model)
        self._by_tensor: dict[str, tuple[Adapter, ...]] = {}
        for adapter in adapters:
            for tensor in adapter.tensors:
                self._by_tensor[tensor] = (*self._by_tensor.get(tensor, ()), adapter)
        acting = {name for name in self._by_tensor if self.change(name) is not None}
        if not acting:
            raise UsageProblem(
                f"nothing would change: {', '.join(a.name for a in adapters)} adds zero to every "
                "weight (a scale of 0, or an adapter that was not trained)"
            )
        self.outputs = tuple(self._outputs(acting))

    @property
    def untied(self) -> bool:
        return len(self.outputs) > len(self.base.model.tensors)

    @property
    def chat_template(self) -> str | None:
        """What an adapter was tuned with, where it brings one: of a base that has none."""
        key = "tokenizer.chat_template"
        return next((t for one in self.adapters if (t := one.header.text(key))), None)

    @property
    def changed(self) -> tuple[Output, ...]:
        return tuple(out for out in self.outputs if out.changed)

    def change(self, tensor: str) -> Change | None:
        return change_of(self._by_tensor, tensor)

    def close(self) -> None:
        self.base.close()
        for adapter in self.adapters:
            adapter.close()

    def _outputs(self, acting: set[str]) -> Iterator[Output]:
        for name in self.base.model.tensors:
            yield Output(name, name, name in acting)
        if OUTPUT not in self.base.model.tensors and acting & {EMBEDDING, OUTPUT}:
            yield Output(OUTPUT, EMBEDDING, OUTPUT in acting)

    # --- rows ---------------------------------------------------------------------------

    def sampled(
        self, out: Output, kind: RowType, importance: Importance | None, workers: Workers
    ) -> Tally:
        """What a type keeps of the change, from rows spread over the tensor."""
        layout = self.base.layout(out.source)
        n_rows = min(layout.n_rows, max(1, SAMPLE_ELEMENTS // layout.n_per_row))
        n_blocks = min(_SAMPLE_BLOCKS, n_rows)
        each = n_rows // n_blocks
        spans = []
        for i in range(n_blocks):
            start = (layout.n_rows - each) * i // max(1, n_blocks - 1)
            spans.append((start, start + each))
        whole = Tally()
        for _, found in self._stored_as(out, kind, importance, workers, spans):
            whole.add(found)
        return whole

    def write(
        self,
        out: Output,
        kind: RowType,
        importance: Importance | None,
        workers: Workers,
        file: GGUFOut,
        advance: Callable[[int], None],
    ) -> Tally:
        """Store a changed tensor, or one that only gets another type, as `kind`."""
        layout = self.base.layout(out.source)
        whole = Tally()
        row_bytes = self.base.model.tensors[out.source].size_bytes // layout.n_rows
        spans = list(row_spans(layout.n_rows, layout.n_per_row, self._matrix_rows(out)))
        for (start, stop), (data, found) in zip(
            spans, self._stored_as(out, kind, importance, workers, spans), strict=True
        ):
            file.write(data)
            whole.add(found)
            advance((stop - start) * row_bytes)
        file.end_tensor()
        return whole

    def copy(self, out: Output, file: GGUFOut, advance: Callable[[int], None]) -> None:
        """Store a tensor byte for byte."""
        for block in self.base.stored(out.source):
            file.write(block)
            advance(len(block))
        file.end_tensor()

    def _stored_as(
        self,
        out: Output,
        kind: RowType,
        importance: Importance | None,
        workers: Workers,
        spans: Sequence[tuple[int, int]],
    ) -> Iterator[tuple[NDArray[np.uint8], Tally]]:
        change = self.change(out.name) if out.changed else None
        per_row = self.base.layout(out.source).n_per_row
        weights = None if importance is None else importance.of(out.name, per_row)
        per_matrix = self._matrix_rows(out)

        def rows() -> Iterator[_Rows]:
            for start, stop in spans:
                own = None if weights is None else weights[start // per_matrix]
                yield _Rows(start, stop, self.base.raw(out.source, start, stop), own)

        def work(item: _Rows) -> tuple[NDArray[np.uint8], Tally]:
            return self._merged(out, kind, change, item)

        return workers.in_order(rows(), work)

    def _merged(
        self, out: Output, kind: RowType, change: Change | None, rows: _Rows
    ) -> tuple[NDArray[np.uint8], Tally]:
        import numpy as np

        stored = self.base.values(out.source, rows.raw)
        if change is None:
            return kind.quantize(stored, rows.importance), Tally()
        with np.errstate(over="ignore", invalid="ignore"):
            moved = change.rows(rows.start, rows.stop)
            merged = stored + moved
        if not np.isfinite(merged).all():
            self._refuse(out, stored)
        data = kind.quantize(merged, rows.importance)
        back = kind.dequantize(data, merged.shape[1])
        if not np.isfinite(back).all():
            raise UsageProblem(
                f"{out.name} reaches {np.abs(merged).max():.3g}, more than {kind.name} holds",
                "a smaller scale, or --type F32",
            )
        return data, tally(stored, moved, back)

    def _refuse(self, out: Output, stored: NDArray[np.float32]) -> None:
        import numpy as np

        if not np.isfinite(stored).all():
            raise DamagedFile(f"{self.base.name}: {out.source} holds numbers that are not finite")
        raise UsageProblem(
            f"{out.name} overflows: the scale is too large", "a scale near 1: --lora ADAPTER:1"
        )

    def _matrix_rows(self, out: Output) -> int:
        shape = self.base.model.tensors[out.source].shape
        return shape[1] if len(shape) > 1 else 1


def row_type_of(name: str) -> RowType:
    """ggml's type of this name. Raises EngineError where this build cannot write it."""
    from localllm.engine.ggml_types import row_types

    found = row_types().get(name.lower())
    if found is None:
        raise EngineError(f"this build of llama.cpp cannot store weights as {name}")
    return found


def same_as_stored(base: GGUFTensors, out: Output, types: Mapping[str, str]) -> bool:
    """Whether the tensor's bytes go over as they are."""
    stored = base.model.tensors[out.source].type.name.lower()
    return not out.changed and types[out.name] == stored


def ggml_type(name: str) -> GGMLType:
    """The format's type of ggml's name ("q6_k"), for headers."""
    return _by_name()[name.lower()]


@cache
def _by_name() -> dict[str, GGMLType]:
    from localllm.formats.gguf import GGML_TYPES

    return {kind.name.lower(): kind for kind in GGML_TYPES.values()}


def tensor_outcomes(
    merge: LoraMerge, types: Mapping[str, str], tallies: Mapping[str, Tally]
) -> tuple[TensorOutcome, ...]:
    """Every tensor of the result: what it was and is, and what survived in those of `tallies`."""
    from localllm.formats.gguf.rewrite import NewTensor

    found = []
    for out in merge.outputs:
        before = merge.base.model.tensors[out.source]
        after = NewTensor(out.name, before.shape, ggml_type(types[out.name]))
        found.append(
            TensorOutcome(
                name=out.name,
                shape=before.shape,
                from_type=before.type.name,
                to_type=after.type.name,
                before_bytes=before.size_bytes if out.name == out.source else 0,
                after_bytes=after.size_bytes,
                survival=tallies[out.name].result() if out.name in tallies else None,
            )
        )
    return tuple(found)
