"""What other types for some tensors do to a model's answers, measured while it is loaded.

A tensor is replaced in the loaded model by the bytes that llama.cpp would write, in their own
type, so that it computes at once as the quantized file will. That matters: on a CPU the kernels
of quantized types round the activations too, K and IQ types to eight bits with one scale for 256
numbers (Q8_K), the others for 32 (Q8_0), and where activations have outliers the former costs
as much as a bit of the weights does. On a GPU, and where a tensor lies in a layout of its own,
its dequantized numbers are written instead; there all types round activations alike. Nothing is
loaded twice, and the user's file is only read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localllm.closing import Closing
from localllm.engine.ggml_types import RowType, row_type
from localllm.quantize.search.live import LiveWeights
from localllm.quantize.search.sensitivity import Vectors
from localllm.quantize.search.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from localllm.engine.context import Context
    from localllm.engine.quality.chunks import Chunk
    from localllm.engine.quality.quality import KldSample
    from localllm.engine.quality.rows import Reference

_BLOCK = 1 << 20  # numbers quantized at a time by one thread: 4 MiB of floats


@dataclass(frozen=True, eq=False)
class KnownAnswers:
    """Contexts, and what the original itself answers there. Stays when the model is closed."""

    chunks: tuple[Chunk, ...]
    references: tuple[Reference, ...]


class Trial(Closing):
    """Tries types on the model loaded in `context`, whose file `original` reads.

    `live` was given to the context as its eval hook. `vectors` is the importance by tensor. Of
    the quantized tensors `kept_bytes` are kept, so as to put them back.
    Closing ends its threads; the context stays, with what was written last. Raises what
    judging raises (models that generate no text, NaN).
    """

    def __init__(
        self,
        original: Weights,
        live: LiveWeights,
        context: Context,
        chunks: Sequence[Chunk],
        vectors: Vectors,
        n_threads: int,
        kept_bytes: float,
    ) -> None:
        from localllm.engine.quality.quality import Judge

        self._original, self._live, self._context = original, live, context
        self._vectors, self._n_threads = vectors, n_threads
        self._changed: dict[str, str] = {}
        self._packed: dict[tuple[str, str], NDArray[np.uint8]] = {}  # the oldest first
        self._room = kept_bytes
        self._pool = ThreadPoolExecutor(max_workers=n_threads)
        self._judge = Judge(context, n_threads)
        self.usual = KnownAnswers(tuple(chunks), self._judge.references(tuple(chunks)))
        live.settle()

    def can_change(self, name: str) -> bool:
        """Whether the model computes with this tensor in a way that is seen from outside."""
        return name in self._live

    def measure(self, types: Mapping[str, str], by: KnownAnswers | None = None) -> KldSample:
        """The divergence from the original with each tensor of `types` in its type, all others
        as they were; tensors that cannot be changed stay. On `by`, else the trial's own
        contexts. Raises DamagedFile for NaN."""
        from localllm.engine.quality.quality import kld_sample

        by = by or self.usual
        self._set({name: kind.lower() for name, kind in types.items() if self.can_change(name)})
        return kld_sample(self._context, by.chunks, by.references, self._n_threads)

    def judged_by(self, chunks: Iterable[Chunk]) -> KnownAnswers:
        """What the original answers to other contexts, for judging by them later."""
        self._set({})
        held = tuple(chunks)
        return KnownAnswers(held, self._judge.references(held))

    def close(self) -> None:
        self._judge.close()
        self._pool.shutdown()

    def _set(self, types: Mapping[str, str]) -> None:
        for name in [n for n in self._changed if n not in types]:
            self._write(name, None)
            del self._changed[name]
        for name, kind in types.items():
            if self._changed.get(name) != kind:
                self._changed[name] = ""  # neither, should this be interrupted
                self._write(name, row_type(kind))
                self._changed[name] = kind

    def _write(self, name: str, kind: RowType | None) -> None:
        """The tensor into the model in type `kind`, or as it was."""
        held = row_type(self._original.model.tensors[name].type.name)
        packed = None if kind is None or kind.name == held.name else self._quantized(name, kind)
        if not self._live.takes_types(name):
            self._write_back(name, kind, held, packed)
        elif kind is None or packed is None:
            self._live.hold(name, held, self._original.bytes(name))
        else:
            self._live.hold(name, kind, packed)

    def _write_back(
        self, name: str, kind: RowType | None, held: RowType, packed: NDArray[np.uint8] | None
    ) -> None:
        """The tensor in the type it has, through `kind` and back."""
        n_rows, n_per_row = self._original.shape(name)

        def fill(data: NDArray[np.uint8]) -> None:
            into = data.reshape(n_rows, -1)

            def one(start: int, end: int) -> None:
                if packed is None or kind is None:
                    into[start:end] = self._original.bytes(name)[start:end]
                else:
                    into[start:end] = held.quantize(kind.dequantize(packed[start:end], n_per_row))

            self._each(name, one)

        self._live.store(name, fill)

    def _quantized(self, name: str, kind: RowType) -> NDArray[np.uint8]:
        """The tensor's bytes in type `kind`, (rows, bytes a row), as llama.cpp would write them."""
        import numpy as np

        if (known := self._packed.get((name, kind.name))) is not None:
            return known
        n_rows, n_per_row = self._original.shape(name)
        packed = np.empty((n_rows, kind.row_bytes(n_per_row)), dtype=np.uint8)
        vector = self._vectors.get(name)

        def one(start: int, end: int) -> None:
            rows = self._original.stretch(name, start, end)
            for a, b, weight in _stretches(vector, start, end, n_rows, n_per_row):
                packed[a:b] = kind.quantize(rows[a - start : b - start], weight)

        self._each(name, one)
        self._keep((name, kind.name), packed)
        return packed

    def _keep(self, key: tuple[str, str], packed: NDArray[np.uint8]) -> None:
        self._packed[key] = packed
        while sum(p.nbytes for p in self._packed.values()) > self._room:
            del self._packed[next(iter(self._packed))]

    def _each(self, name: str, work: Callable[[int, int], None]) -> None:
        """`work` on stretches of the tensor's rows, shared among the threads."""
        n_rows, n_per_row = self._original.shape(name)
        step = max(1, _BLOCK // n_per_row)
        starts = range(0, n_rows, step)
        list(self._pool.map(lambda start: work(start, min(start + step, n_rows)), starts))


def _stretches(vector: Any, start: int, end: int, n_rows: int, n_per_row: int) -> Any:
    """Rows `start` to `end` in parts that share their importance, with it (None: none)."""
    import numpy as np

    if vector is None:
        return [(start, end, None)]
    experts = np.asarray(vector, dtype=np.float32).reshape(-1, n_per_row)
    each = n_rows // len(experts)
    cuts = [start, *range((start // each + 1) * each, end, each), end]
    return [
        (a, b, experts[a // each] if experts[a // each].sum() > 0 else np.ones_like(experts[0]))
        for a, b in itertools.pairwise(cuts)
    ]
