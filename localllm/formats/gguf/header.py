"""A GGUF file, or several shards of one, as typed facts: what it is, how large, of what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NoReturn, overload

from localllm.errors import DamagedFile
from localllm.formats.gguf.index import TensorInfo
from localllm.formats.gguf.metadata import Metadata, Value
from localllm.formats.gguf.types import INTEGER_RANGES, FileType, ValueType, file_type, file_type_of
from localllm.formats.prefix import DAMAGED_HINT

Kind = Literal["model", "adapter", "mmproj", "imatrix", "control_vector", "vocab"]


@dataclass(frozen=True, slots=True)
class TypeTotal:
    """What one tensor type adds up to."""

    n_tensors: int
    n_elements: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """What a shard says of its split. `number` counts from 0, as in the file."""

    number: int
    count: int
    n_tensors: int | None  # over all shards


class GGUFView:
    """What a single header and a whole split model have in common.

    `metadata` of a split model is its first shard's; `tensors` are those of all shards.
    """

    name: str  # for messages: the file's name
    metadata: Metadata
    tensors: Mapping[str, TensorInfo]

    # --- typed access ---------------------------------------------------------------------

    def _wrong(self, key: str, wanted: str) -> NoReturn:
        info = self.metadata.info(key)
        kind = info.type.name if info.element_type is None else f"array of {info.element_type.name}"
        raise DamagedFile(f"{self.name}: {key} should be {wanted} and is {kind}", DAMAGED_HINT)

    @overload
    def u32(self, key: str) -> int | None: ...
    @overload
    def u32(self, key: str, default: int) -> int: ...
    def u32(self, key: str, default: int | None = None) -> int | None:
        """A whole number of 0 to 2^32 - 1, stored in any integer type (converters differ)."""
        return self._integer(key, default, ValueType.U32)

    @overload
    def u64(self, key: str) -> int | None: ...
    @overload
    def u64(self, key: str, default: int) -> int: ...
    def u64(self, key: str, default: int | None = None) -> int | None:
        """A whole number of 0 to 2^64 - 1, stored in any integer type."""
        return self._integer(key, default, ValueType.U64)

    def _integer(self, key: str, default: int | None, kind: ValueType) -> int | None:
        if key not in self.metadata:
            return default
        value = self.metadata[key]
        least, most = INTEGER_RANGES[kind]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self._wrong(key, f"{kind.name} (a number of {least} to {most})")
        return value

    @overload
    def f32(self, key: str) -> float | None: ...
    @overload
    def f32(self, key: str, default: float) -> float: ...
    def f32(self, key: str, default: float | None = None) -> float | None:
        """A number, integers included."""
        value = self.metadata.get(key, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong(key, "a number")
        return float(value)

    @overload
    def flag(self, key: str) -> bool | None: ...
    @overload
    def flag(self, key: str, default: bool) -> bool: ...
    def flag(self, key: str, default: bool | None = None) -> bool | None:
        value = self.metadata.get(key, default)
        if value is not None and not isinstance(value, bool):
            self._wrong(key, "true or false")
        return value

    @overload
    def text(self, key: str) -> str | None: ...
    @overload
    def text(self, key: str, default: str) -> str: ...
    def text(self, key: str, default: str | None = None) -> str | None:
        value = self.metadata.get(key, default)
        if value is not None and not isinstance(value, str):
            self._wrong(key, "text")
        return value

    def arch_key(self, name: str) -> str:
        """`block_count` -> `llama.block_count`."""
        if self.architecture is None:
            raise DamagedFile(f"{self.name}: it has no general.architecture", DAMAGED_HINT)
        return f"{self.architecture}.{name}"

    def arch_value(self, name: str, default: Value | None = None) -> Value | None:
        """The value of a key below the architecture's name, whatever its type."""
        return self.metadata.get(self.arch_key(name), default)

    @overload
    def arch_u32(self, name: str) -> int | None: ...
    @overload
    def arch_u32(self, name: str, default: int) -> int: ...
    def arch_u32(self, name: str, default: int | None = None) -> int | None:
        return self._integer(self.arch_key(name), default, ValueType.U32)

    def arch_per_layer(self, name: str, n_layer: int, default: int = 0) -> tuple[int, ...]:
        """A number for each layer: an array as it is, one number repeated, `default` if none.

        Head counts and feed-forward sizes are stored either way. An array shorter than
        `n_layer` is damage; what is beyond it is left out.
        """
        key = self.arch_key(name)
        value = self.metadata.get(key, default)
        if not isinstance(value, tuple):
            return (self._integer(key, default, ValueType.U32) or 0,) * n_layer
        counts = [v for v in value if isinstance(v, int) and v >= 0]  # bool is an int, rightly
        if len(counts) < len(value):
            self._wrong(key, "one whole number, or one a layer")
        if len(value) < n_layer:
            raise DamagedFile(
                f"{self.name}: {key} has {len(value)} numbers for {n_layer} layers", DAMAGED_HINT
            )
        return tuple(int(v) for v in counts[:n_layer])

    # --- what it is -----------------------------------------------------------------------

    @property
    def architecture(self) -> str | None:
        """`llama`, `gemma3`, ...: what llama.cpp calls the model's kind."""
        return self.text("general.architecture")

    @cached_property
    def kind(self) -> Kind:
        """What the file is for, from its keys alone."""
        declared = self.metadata.get("general.type")
        architecture = self.metadata.get("general.architecture")
        if declared == "adapter" or "adapter.type" in self.metadata:
            return "adapter"
        if declared == "mmproj" or architecture == "clip":
            return "mmproj"
        if declared == "imatrix":
            return "imatrix"
        if architecture == "controlvector":
            return "control_vector"
        if not self.tensors and self.split is None and "tokenizer.ggml.model" in self.metadata:
            return "vocab"
        return "model"

    @property
    def split(self) -> SplitInfo | None:
        """None for a file that stands alone (a split of one counts as alone)."""
        count = self.u32("split.count", 0)
        if count <= 1:
            return None
        return SplitInfo(self.u32("split.no", 0), count, self.u32("split.tensors.count"))

    @cached_property
    def file_type(self) -> FileType | None:
        """general.file_type; a guess from the type that holds the most bytes where it is
        missing; None for files without weights."""
        number = self.u32("general.file_type")
        if number is not None:
            return file_type(number)
        if not self.tensors:
            return None
        totals = self.types
        return file_type_of(max(totals, key=lambda name: totals[name].size_bytes))

    # --- how large ------------------------------------------------------------------------

    @cached_property
    def types(self) -> Mapping[str, TypeTotal]:
        """Tensors, elements and bytes of each tensor type, the largest first."""
        sums: dict[str, list[int]] = {}
        for tensor in self.tensors.values():
            total = sums.setdefault(tensor.type.name, [0, 0, 0])
            total[0] += 1
            total[1] += tensor.n_elements
            total[2] += tensor.size_bytes
        ordered = sorted(sums.items(), key=lambda item: -item[1][2])
        return {name: TypeTotal(*total) for name, total in ordered}

    @property
    def n_params(self) -> int:
        """Elements of all tensors, as llama.cpp counts a model's parameters."""
        return sum(total.n_elements for total in self.types.values())

    @property
    def weights_bytes(self) -> int:
        """Bytes of all tensors, padding left out."""
        return sum(total.size_bytes for total in self.types.values())

    @property
    def bits_per_weight(self) -> float | None:
        """Mean bits an element, None for files without weights."""
        return self.weights_bytes * 8 / self.n_params if self.n_params else None


@dataclass(frozen=True, eq=False)
class GGUFHeader(GGUFView):
    """One file's header. It holds the header's bytes and no open file.

    `raw` are the bytes up to the end of the tensor infos; `data_offset` is where tensor data
    starts; `total_size` the file's size, None if not known.
    """

    name: str
    version: int
    big_endian: bool
    alignment: int
    data_offset: int
    total_size: int | None
    metadata: Metadata
    tensors: Mapping[str, TensorInfo]
    raw: bytes

    @property
    def data_bytes(self) -> int:
        """Size of the data section up to the end of its last tensor."""
        return max((t.offset + t.size_bytes for t in self.tensors.values()), default=0)

    def write_sparse(self, path: Path) -> None:
        """A file with this header and zeros for weights that takes no disk space for them.

        llama.cpp loads it with `no_alloc`, so a remote model's memory need is known from
        its header alone (file systems without sparse files write the zeros out).
        """
        with path.open("wb") as file:
            file.write(self.raw)
            file.truncate(max(self.data_offset + self.data_bytes, self.total_size or 0))
