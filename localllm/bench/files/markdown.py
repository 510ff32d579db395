"""Rows as the Markdown table that llama-bench prints, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localllm.bench.files.fields import FIELDS, Field, text_of
from localllm.library.bench.record import BenchRow

_SHORT = {
    "n_gpu_layers": "ngl", "split_mode": "sm", "n_threads": "threads", "no_kv_offload": "nkvo",
    "flash_attn": "fa", "load_mode": "lm", "embeddings": "embd", "no_op_offload": "nopo",
    "no_host": "noh", "repack": "rpk", "devices": "dev", "tensor_split": "ts",
    "tensor_buft_overrides": "ot", "fit_target": "fitt", "fit_min_ctx": "fitc",
}  # fmt: skip
_WIDTHS = {  # negative: set to the left
    "model": -30, "t/s": 20, "size": 10, "params": 10, "n_gpu_layers": 3, "n_threads": 7,
    "n_batch": 7, "n_ubatch": 8, "type_k": 6, "type_v": 6, "split_mode": 6, "load_mode": 10,
    "flash_attn": 3, "devices": -12, "test": 15, "no_op_offload": 4, "no_host": 4, "repack": 3,
}  # fmt: skip
# The settings in the order of llama-bench's columns; each is shown where a row differs from
# its default or from another row.
_SETTINGS = (
    "n_gpu_layers", "n_cpu_moe", "n_threads", "cpu_mask", "cpu_strict", "poll", "n_batch",
    "n_ubatch", "type_k", "type_v", "main_gpu", "split_mode", "no_kv_offload", "flash_attn",
    "devices", "tensor_split", "tensor_buft_overrides", "load_mode", "lazy_mode", "embeddings",
    "no_op_offload", "no_host", "repack", "fit_target", "fit_min_ctx",
)  # fmt: skip
_BY_NAME = {field.name: field for field in FIELDS}


@dataclass(frozen=True)
class _Column:
    name: str
    title: str
    cells: tuple[str, ...]

    @property
    def width(self) -> int:
        """llama-bench's, negative where the column is set to the left."""
        if self.name in _WIDTHS:
            return _WIDTHS[self.name]
        least = max(len(self.name), 10)
        field = _BY_NAME.get(self.name)
        return least if field is not None and field.kind != "text" else -least


def markdown(rows: Sequence[BenchRow]) -> str:
    """The table, and a line with llama.cpp's build. Ours come last: name where several models
    were measured, the 95 % interval, and why a row failed or is noisy."""
    columns = [
        _Column("model", "model", tuple(row.model_type for row in rows)),
        _Column("size", "size", tuple(_size(row.model_size) for row in rows)),
        _Column("params", "params", tuple(_params(row.model_n_params) for row in rows)),
        _Column("backend", "backend", tuple(row.backends for row in rows)),
        *(_setting(rows, _BY_NAME[name]) for name in _SETTINGS if _is_shown(rows, name)),
        _Column("test", "test", tuple(row.test for row in rows)),
        _Column("t/s", "t/s", tuple(_rate(row) for row in rows)),
        *_ours(rows),
    ]
    lines = [
        _line([_pad(c.title, c.width) for c in columns]),
        _line(["-" * (abs(c.width) - 1) + (":" if c.width > 0 else "-") for c in columns]),
    ]
    for number in range(len(rows)):
        lines.append(_line([_pad(_escaped(c.cells[number]), c.width) for c in columns]))
    builds = sorted({(row.build_commit, row.build_number) for row in rows})
    footer = "".join(f"build: {commit} ({number})\n" for commit, number in builds)
    return "\n".join(lines) + "\n\n" + footer


def _is_shown(rows: Sequence[BenchRow], name: str) -> bool:
    # As llama-bench decides; ZenDNN and BLAS compute on the processor.
    on_cpu = any(word in row.backends for row in rows for word in ("CPU", "BLAS", "ZenDNN"))
    if name == "n_gpu_layers":
        return any(not any(w in row.backends for w in ("CPU", "BLAS", "ZenDNN")) for row in rows)
    values = {text_of(row, _BY_NAME[name]) for row in rows}
    if name == "n_threads":  # its default is the machine's: as many as cores
        return on_cpu or len(values) > 1
    default = _BY_NAME[name].default
    usual = str(int(default)) if isinstance(default, bool) else str(default)
    return bool(values - {usual})


def _setting(rows: Sequence[BenchRow], field: Field) -> _Column:
    title = _SHORT.get(field.name, field.name)
    return _Column(field.name, title, tuple(text_of(row, field) for row in rows))


def _ours(rows: Sequence[BenchRow]) -> list[_Column]:
    columns = []
    if len({row.model for row in rows}) > 1:
        columns.append(_Column("name", "name", tuple(row.model for row in rows)))
    if any(row.ci95_low_ts is not None for row in rows):
        columns.append(_Column("interval", "95 % interval", tuple(_interval(r) for r in rows)))
    if any(_remark(row) for row in rows):
        columns.append(_Column("remark", "remark", tuple(_remark(row) for row in rows)))
    return columns


def _remark(row: BenchRow) -> str:
    if row.failure is not None:
        return f"{row.failure.kind}: {row.failure.message}"
    noisy = row.evidence.noisy if row.evidence else ()
    return f"noisy: {'; '.join(noisy)}" if noisy else ""


def _interval(row: BenchRow) -> str:
    if row.ci95_low_ts is None or row.ci95_high_ts is None:
        return "-"
    return f"{row.ci95_low_ts:.2f} to {row.ci95_high_ts:.2f}"


def _rate(row: BenchRow) -> str:
    return "-" if row.failure else f"{row.avg_ts:.2f} ± {row.stddev_ts:.2f}"


def _size(n_bytes: int) -> str:
    mib = n_bytes / 2**20
    return f"{mib:.2f} MiB" if n_bytes < 2**30 else f"{mib / 1024:.2f} GiB"


def _params(n: int) -> str:
    return f"{n / 1e6:.2f} M" if n < 1000**3 else f"{n / 1e9:.2f} B"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _pad(text: str, width: int) -> str:
    return text.rjust(width) if width > 0 else text.ljust(-width)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
