"""Metadata and tensors with random weights, put together and written as a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.gguf_writer import DEFAULT_ALIGNMENT, GGML_TYPES, T, Val, header_bytes
from tests.support.tiny_vocab import Vocab

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Weights = NDArray[np.float32]

# general.file_type of a model whose matrices are all of one type
FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10,
    "Q3_K": 12, "Q4_K": 15, "Q5_K": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32,
}  # fmt: skip


@dataclass
class TinyModel:
    """Metadata and tensors in the making; `write` gives the file."""

    metadata: dict[str, Any]
    dtype: str = "F16"
    seed: int = 0
    tensors: list[tuple[T, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        import numpy as np

        self.rng = np.random.default_rng(self.seed)

    def matrix(
        self, name: str, shape: Sequence[int], *, std: float | None = None, dtype: str = ""
    ) -> None:
        """Random weights in ggml order, in the model's type where rows allow, else F16."""
        import numpy as np

        std = shape[0] ** -0.5 if std is None else std
        values = self.rng.standard_normal(tuple(reversed(shape)), dtype=np.float32) * np.float32(
            std
        )
        fits = shape[0] % GGML_TYPES[self.dtype][1] == 0
        self.add(name, values, dtype or (self.dtype if fits else "F16"))

    def norm(self, name: str, n: int, value: float = 1.0) -> None:
        """A vector near `value`, in F32 as llama.cpp keeps all vectors."""
        import numpy as np

        noise = self.rng.standard_normal(n, dtype=np.float32) * np.float32(0.02)
        self.add(name, noise + np.float32(value), "F32")

    def add(self, name: str, values: Weights, dtype: str) -> None:
        shape = tuple(int(n) for n in reversed(values.shape))
        self.tensors.append((T(name, shape, dtype), quantized(values, dtype)))

    def embeddings(self, vocab: Vocab, n_embd: int, *, tied: bool = False) -> None:
        """token_embd and, unless tied, output; rows of special tokens are zero in the latter."""
        import numpy as np

        n_vocab = len(vocab)
        self.matrix("token_embd.weight", (n_embd, n_vocab), std=1.0 if not tied else 0.2)
        if tied:
            return
        rows = self.rng.standard_normal((n_vocab, n_embd), dtype=np.float32) * np.float32(0.15)
        special = [i for i, t in enumerate(vocab.tokens) if t.startswith(("<|", "<s", "</s", "<u"))]
        rows[special] = 0
        self.add("output.weight", rows, self.dtype)

    def write(self, path: Path) -> Path:
        """The whole file; `path` is returned."""
        path.write_bytes(_file(self.metadata, self.tensors))
        return path

    def write_split(self, folder: Path, stem: str, n_shards: int) -> list[Path]:
        """`stem-00001-of-0000N.gguf` ...: all metadata in the first, tensors in order."""
        each = -(-len(self.tensors) // n_shards)
        paths = []
        for i in range(n_shards):
            split = {
                "split.no": Val("u16", i),
                "split.count": Val("u16", n_shards),
                "split.tensors.count": Val("i32", len(self.tensors)),
            }
            metadata = (self.metadata if i == 0 else {}) | split
            path = folder / f"{stem}-{i + 1:05d}-of-{n_shards:05d}.gguf"
            path.write_bytes(_file(metadata, self.tensors[i * each : (i + 1) * each]))
            paths.append(path)
        return paths


def quantized(values: Weights, dtype: str) -> bytes:
    """float32 values as ggml stores them, by ggml's own quantizer (importance all ones)."""
    import ctypes

    import numpy as np

    if dtype == "F32":
        return values.astype(np.float32).tobytes()
    if dtype == "F16":
        return values.astype(np.float16).tobytes()
    number, block, block_bytes = GGML_TYPES[dtype]
    out = ctypes.create_string_buffer(values.size // block * block_bytes)
    rows = np.ascontiguousarray(values, dtype=np.float32).reshape(-1, values.shape[-1])
    ones = np.ones(values.shape[-1], dtype=np.float32)
    as_floats = ctypes.POINTER(ctypes.c_float)
    written = _ggml().ggml_quantize_chunk(
        ctypes.c_int(number), rows.ctypes.data_as(as_floats), out, ctypes.c_int64(0),
        ctypes.c_int64(rows.shape[0]), ctypes.c_int64(rows.shape[1]),
        ones.ctypes.data_as(as_floats),
    )  # fmt: skip
    assert written == len(out), (dtype, written, len(out))
    return out.raw


def _file(metadata: Mapping[str, Any], tensors: Sequence[tuple[T, bytes]]) -> bytes:
    parts = [header_bytes(metadata, [info for info, _ in tensors])]
    for _, data in tensors:
        parts += [data, bytes(-len(data) % DEFAULT_ALIGNMENT)]
    return b"".join(parts)


def _ggml() -> Any:
    """ggml's base library as llama-cpp-python ships it."""
    import ctypes

    import llama_cpp

    folder = Path(llama_cpp.__file__).parent / "lib"
    names = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
    library = ctypes.CDLL(str(next(folder / n for n in names if (folder / n).exists())))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library
