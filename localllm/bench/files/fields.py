"""llama-bench's fields: their order, types and defaults, as its `test::get_fields` has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from localllm.library.bench.record import BenchRow

Kind = Literal["text", "bool", "int", "float"]
Value = str | bool | int | float


@dataclass(frozen=True)
class Field:
    """`default` is what llama-bench writes where its option is not given; for fields that a
    BenchRow does not have, that is also what we write."""

    name: str
    kind: Kind
    default: Value

    @property
    def is_kept(self) -> bool:
        """A BenchRow has it."""
        return self.name in BenchRow.__dataclass_fields__


# The order is llama-bench's. `no_op_offload` is an integer there, the other switches are not.
FIELDS = (
    Field("build_commit", "text", "unknown"),
    Field("build_number", "int", 0),
    Field("cpu_info", "text", ""),
    Field("gpu_info", "text", ""),
    Field("backends", "text", "CPU"),
    Field("model_filename", "text", ""),
    Field("model_type", "text", ""),
    Field("model_size", "int", 0),
    Field("model_n_params", "int", 0),
    Field("n_batch", "int", 2048),
    Field("n_ubatch", "int", 512),
    Field("n_threads", "int", 0),
    Field("cpu_mask", "text", "0x0"),
    Field("cpu_strict", "bool", False),
    Field("poll", "int", 50),
    Field("type_k", "text", "f16"),
    Field("type_v", "text", "f16"),
    Field("n_gpu_layers", "int", -1),
    Field("n_cpu_moe", "int", 0),
    Field("split_mode", "text", "layer"),
    Field("main_gpu", "int", 0),
    Field("no_kv_offload", "bool", False),
    Field("flash_attn", "int", -1),
    Field("devices", "text", "auto"),
    Field("tensor_split", "text", "0.00"),
    Field("tensor_buft_overrides", "text", "none"),
    Field("load_mode", "text", "auto"),
    Field("lazy_mode", "text", "auto"),
    Field("embeddings", "bool", False),
    Field("no_op_offload", "int", 0),
    Field("no_host", "bool", False),
    Field("repack", "bool", True),
    Field("fit_target", "int", 0),
    Field("fit_min_ctx", "int", 0),
    Field("n_prompt", "int", 0),
    Field("n_gen", "int", 0),
    Field("n_depth", "int", 0),
    Field("test_time", "text", ""),
    Field("avg_ns", "int", 0),
    Field("stddev_ns", "int", 0),
    Field("avg_ts", "float", 0.0),
    Field("stddev_ts", "float", 0.0),
)
MEASURED = ("avg_ns", "stddev_ns", "avg_ts", "stddev_ts")  # what a failed row does not have


def value_of(row: BenchRow, field: Field) -> Value | None:
    """The field's value in `row`, None where the row failed and has none."""
    if field.name in MEASURED and row.failure is not None:
        return None
    if not field.is_kept:
        return field.default
    value = getattr(row, field.name)
    if field.name == "tensor_split":
        return str(value) or "0.00"
    return int(value) if field.kind == "int" else value


def text_of(row: BenchRow, field: Field) -> str:
    """The same as llama-bench's `get_values` prints it (C++ std::to_string)."""
    value = value_of(row, field)
    if value is None:
        return ""
    if field.kind == "bool":
        return "1" if value else "0"
    return f"{value:.6f}" if field.kind == "float" else str(value)
