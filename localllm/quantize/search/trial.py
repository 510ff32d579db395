"""What other types for some tensors do to a model's answers, measured while it is loaded.

The model lies in a scratch file of half-precision floats, which llama.cpp maps. A tensor is
replaced by writing into that file what a quantized one would hold: the loaded model computes
with it at once. Nothing is loaded twice, and the user's own file is only read.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from localllm.engine.ggml_types import RowType, row_type
from localllm.formats.gguf import read_model
from localllm.quantize.search.sensitivity import Vectors
from localllm.quantize.search.weights import Weights

if TYPE_CHECKING:
    from localllm.engine.context import Context
    from localllm.engine.quality import KldSample
    from localllm.engine.quality_chunks import Chunk
    from localllm.engine.quality_rows import Reference

_BLOCK = 1 << 20  # numbers quantized at a time by one thread: 4 MiB of floats


class Trial:
    """Tries types on the model whose half-precision copy `scratch` is loaded in `context`.

    `original` are the weights the copy was made from, `vectors` the importance by tensor. Close
    it, or use `with`, to end its threads; the context stays. The scratch file must be the
    program's own: it is written to.
    """

    def __init__(
        self,
        original: Weights,
        scratch: Path,
        context: Context,
        chunks: Sequence[Chunk],
        vectors: Vectors,
        n_threads: int,
    ) -> None:
        import numpy as np

        from localllm.engine.quality import Judge

        self._original, self._context, self._vectors = original, context, vectors
        self._chunks, self._n_threads = tuple(chunks), n_threads
        self._layout = read_model(scratch)
        self._map = np.memmap(scratch, dtype=np.uint8, mode="r+")
        self._changed: dict[str, str] = {}
        self._pool = ThreadPoolExecutor(max_workers=n_threads)
        with Judge(context, n_threads) as judge:
            self.references: tuple[Reference, ...] = judge.references(self._chunks)
        self.runs = 0

    def measure(self, types: Mapping[str, str]) -> KldSample:
        """The divergence from the original with each tensor of `types` in its type, all others
        as they were. Raises what `kld_sample` raises."""
        from localllm.engine.quality import kld_sample

        for name in [n for n, now in self._changed.items() if types.get(n) != now]:
            if name not in types:
                self._write(name, None)
                del self._changed[name]
        for name, kind in types.items():
            if self._changed.get(name) != kind:
                self._write(name, row_type(kind))
                self._changed[name] = kind
        self.runs += 1
        return kld_sample(self._context, self._chunks, self.references, self._n_threads)

    def close(self) -> None:
        self._pool.shutdown()
        del self._map

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, name: str, kind: RowType | None) -> None:
        """The tensor into the scratch file: through `kind` and back, or as it was."""
        n_rows, n_per_row = self._original.shape(name)
        into = self._rows_of(name, n_rows)
        step = max(1, _BLOCK // n_per_row)
        vector = self._vectors.get(name)

        def one(start: int) -> None:
            import numpy as np

            end = min(start + step, n_rows)
            rows = self._original.rows(name, np.arange(start, end))
            if kind is not None:
                for a, b, weight in _stretches(vector, start, end, n_rows, n_per_row):
                    part = rows[a - start : b - start]
                    part[:] = kind.dequantize(kind.quantize(part, weight), n_per_row)
            into[start:end] = rows.astype(into.dtype)

        list(self._pool.map(one, range(0, n_rows, step)))

    def _rows_of(self, name: str, n_rows: int) -> Any:
        import numpy as np

        at, info = self._layout.locate(name), self._layout.tensors[name]
        data = self._map[at.offset : at.offset + at.size_bytes]
        number = np.float32 if info.type.name == "F32" else np.float16
        return data.view(number).reshape(n_rows, -1)


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
