"""A model's weights as numbers, a few rows at a time, straight from its file."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.formats.gguf import GGUFModel, model_files, read_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Weights:
    """Rows of the tensors of the GGUF model at `path` (or a shard of it), dequantized. The
    files are mapped, not read. Raises what reading the header raises.

    A tensor of experts counts as one tall matrix: expert 0's rows, then expert 1's, and so on.
    """

    def __init__(self, path: Path) -> None:
        self.model: GGUFModel = read_model(path)
        self._files = model_files(path)

    def shape(self, name: str) -> tuple[int, int]:
        """Rows and numbers a row. Raises KeyError."""
        n_per_row, *rest = self.model.tensors[name].shape
        n_rows = 1
        for n in rest:
            n_rows *= n
        return n_rows, n_per_row

    def rows(self, name: str, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """The rows of these numbers, (len(numbers), n_per_row). Raises KeyError, UsageProblem
        for types that hold no weights."""
        return self._numbers(name, self.bytes(name)[numbers])

    def stretch(self, name: str, start: int, end: int) -> NDArray[np.float32]:
        """Rows `start` to `end`, as `rows`."""
        return self._numbers(name, self.bytes(name)[start:end])

    def _numbers(self, name: str, data: NDArray[np.uint8]) -> NDArray[np.float32]:
        from localllm.engine.ggml_types import row_type

        return row_type(self.model.tensors[name].type.name).dequantize(data, self.shape(name)[1])

    def bytes(self, name: str) -> NDArray[np.uint8]:
        """The file's own bytes, (rows, bytes a row), mapped."""
        n_rows, _ = self.shape(name)
        at = self.model.locate(name)
        data = self._maps[at.shard][at.offset : at.offset + at.size_bytes]
        found: NDArray[np.uint8] = data.reshape(n_rows, at.size_bytes // n_rows)
        return found

    @cached_property
    def _maps(self) -> list[Any]:
        import numpy as np

        return [np.memmap(file, dtype=np.uint8, mode="r") for file in self._files]
