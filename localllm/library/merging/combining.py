"""Running the jobs of a merge: rows of every model in, rows of the result out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from localllm.errors import DamagedFile, UsageProblem
from localllm.library.merging.jobs import Job
from localllm.library.merging.methods import Prepared, combine, prepare
from localllm.library.merging.pipeline import Workers
from localllm.library.merging.survival import Tally, tally
from localllm.library.merging.tensors import TensorSource, row_spans

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from localllm.engine.ggml_types import RowType
    from localllm.library.merging.importance import Importance


class Out(Protocol):
    """A file that takes the bytes of one tensor after the other."""

    def write(self, block: NDArray[np.uint8]) -> None: ...

    def end_tensor(self) -> None: ...


class Stored(Protocol):
    """A source that can also give a tensor's bytes as they are."""

    def stored(self, tensor: str) -> Iterator[NDArray[np.uint8]]: ...


@dataclass(frozen=True)
class _Rows:
    first: int  # number of the first element in the tensor
    raw: tuple[NDArray[np.uint8], ...]
    importance: NDArray[np.float32] | None


class Combiner:
    """Computes tensors of the result from `sources` (by the specification's names)."""

    def __init__(self, sources: Mapping[str, TensorSource], workers: Workers) -> None:
        self.sources = sources
        self.workers = workers

    def merge(
        self,
        job: Job,
        kind: RowType,
        out: Out,
        advance: Callable[[int], None],
        importance: Importance | None = None,
    ) -> Tally:
        """Write one tensor as `kind`; what survives of its change against the reference."""
        layout = self._source(job, 0).layout(job.inputs[0].tensor)
        weights = None if importance is None else importance.of(job.name, layout.n_per_row)
        shape = layout.shape
        per_matrix = shape[1] if weights is not None and len(shape) > 1 else layout.n_rows
        spans = list(row_spans(layout.n_rows, layout.n_per_row, max(1, per_matrix)))
        prepared = prepare(job.recipe, lambda: self._parts(job, spans, layout.n_per_row))

        def rows() -> Iterator[_Rows]:
            for start, stop in spans:
                own = None if weights is None else weights[start // per_matrix]
                yield _Rows(start * layout.n_per_row, self._raw(job, start, stop), own)

        def work(item: _Rows) -> tuple[NDArray[np.uint8], Tally]:
            return self._merged(job, kind, prepared, item)

        whole = Tally()
        for data, found in self.workers.in_order(rows(), work):
            out.write(data)
            whole.add(found)
            advance(data.nbytes)
        out.end_tensor()
        return whole

    def copy(self, job: Job, stored: Stored, out: Out, advance: Callable[[int], None]) -> None:
        """Write the (first) input's bytes as they are."""
        for block in stored.stored(job.inputs[0].tensor):
            out.write(block)
            advance(block.nbytes)
        out.end_tensor()

    def _merged(
        self, job: Job, kind: RowType, prepared: Prepared, rows: _Rows
    ) -> tuple[NDArray[np.uint8], Tally]:
        import numpy as np

        values = [
            self._source(job, i).values(own.tensor, rows.raw[i]) for i, own in enumerate(job.inputs)
        ]
        reference = values[job.reference] if kind.name != "f32" else None
        with np.errstate(over="ignore", invalid="ignore"):
            merged = combine(job.recipe, prepared, values, rows.first)
        if not np.isfinite(merged).all():
            self._refuse(job, values)
        data = kind.quantize(merged, rows.importance)
        if reference is None or job.recipe.method == "passthrough":
            return data, Tally()
        back = kind.dequantize(data, merged.shape[1])
        if not np.isfinite(back).all():
            raise UsageProblem(
                f"{job.name} reaches {np.abs(merged).max():.3g}, more than {kind.name} holds",
                "--type BF16, or F32",
            )
        return data, tally(reference, merged - reference, back)

    def _refuse(self, job: Job, values: Sequence[NDArray[np.float32]]) -> None:
        import numpy as np

        for own, found in zip(job.inputs, values, strict=True):
            if not np.isfinite(found).all():
                raise DamagedFile(f"{own.model}: {own.tensor} holds numbers that are not finite")
        raise UsageProblem(f"{job.name} overflows: the weights are too large", "weights near 1")

    def _parts(
        self, job: Job, spans: Sequence[tuple[int, int]], n_per_row: int
    ) -> Iterator[list[NDArray[np.float32]]]:
        """The rows of every input, decoded by the workers, span after span."""

        def rows() -> Iterator[_Rows]:
            for start, stop in spans:
                yield _Rows(start * n_per_row, self._raw(job, start, stop), None)

        def work(item: _Rows) -> list[NDArray[np.float32]]:
            return [
                self._source(job, i).values(own.tensor, item.raw[i])
                for i, own in enumerate(job.inputs)
            ]

        return self.workers.in_order(rows(), work)

    def _raw(self, job: Job, start: int, stop: int) -> tuple[NDArray[np.uint8], ...]:
        return tuple(
            self._source(job, i).raw(own.tensor, start, stop) for i, own in enumerate(job.inputs)
        )

    def _source(self, job: Job, i: int) -> TensorSource:
        return self.sources[job.inputs[i].model]
