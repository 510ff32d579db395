"""A safetensors model's tensors, all shards of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from localllm.closing import Closing
from localllm.errors import DamagedFile, UsageProblem
from localllm.library.merging.tensors import COPY_BYTES, Layout, read_exactly

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLOATS = ("F32", "F16", "BF16", "F64")


class SafeTensors(Closing):
    """The folder of a model. Raises DamagedFile, FileGone, UsageProblem for adapters."""

    def __init__(self, folder: Path, name: str) -> None:
        from localllm.formats.safetensors import read_safetensors_folder

        self.folder = folder
        self.model = read_safetensors_folder(folder)
        if self.model.kind != "model":
            raise UsageProblem(
                f"{name} is an adapter in safetensors form, no whole model",
                f"localllm convert {name}, then merge BASE --lora it",
            )
        self._name = name
        shards = zip(self.model.files, self.model.shards, strict=True)
        self._start = {path: shard.data_offset for path, shard in shards}
        self._files: dict[Path, BinaryIO] = {
            path: path.open("rb", buffering=0) for path in self.model.files
        }

    @property
    def name(self) -> str:
        return self._name

    def names(self) -> Sequence[str]:
        return list(self.model.tensors)

    def layout(self, tensor: str) -> Layout:
        info = self.model.tensors[tensor]
        per_row = info.shape[-1] if info.shape else 1
        rows = info.n_elements // per_row if per_row else 0
        return Layout(info.shape, rows, per_row, info.dtype)

    def raw(self, tensor: str, start: int, stop: int) -> NDArray[np.uint8]:
        info, layout = self.model.tensors[tensor], self.layout(tensor)
        row_bytes = info.size_bytes // max(1, layout.n_rows)
        file = self.model.file_of[tensor]
        at = self._start[file] + info.offset + start * row_bytes
        data = read_exactly(self._files[file], at, (stop - start) * row_bytes, self._name)
        return data.reshape(stop - start, row_bytes)

    def values(self, tensor: str, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
        import numpy as np

        from localllm.engine.ggml_types import row_type

        layout = self.layout(tensor)
        if layout.type_name == "F64":
            return raw.view("<f8").astype(np.float32)
        if layout.type_name not in FLOATS:
            raise UsageProblem(
                f"{self._name}: {tensor} is stored as {layout.type_name}, which is not merged",
                "take the model in BF16, F16 or F32",
            )
        return row_type(layout.type_name).dequantize(raw, layout.n_per_row)

    def stored(self, tensor: str) -> Iterator[NDArray[np.uint8]]:
        """A tensor's bytes as they are, in blocks."""
        info, file = self.model.tensors[tensor], self.model.file_of[tensor]
        for at in range(0, info.size_bytes, COPY_BYTES):
            n = min(COPY_BYTES, info.size_bytes - at)
            start = self._start[file] + info.offset + at
            yield read_exactly(self._files[file], start, n, self._name)

    @property
    def n_layers(self) -> int:
        """Raises DamagedFile where config.json does not say."""
        config = self.model.config
        inner = config.get("text_config")
        for place in (config, inner if isinstance(inner, dict) else {}):
            for key in ("num_hidden_layers", "n_layer", "num_layers"):
                if isinstance(place.get(key), int):
                    return int(place[key])
        raise DamagedFile(f"{self._name}: its config.json has no num_hidden_layers")

    def close(self) -> None:
        for file in self._files.values():
            file.close()
