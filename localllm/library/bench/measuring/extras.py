"""What is measured beside the rows: answers' latency, several sequences together, serving.

Each runs where rows do, in the child process or in this one, with the model loaded anew: the
contexts are of other sizes, and so may the plan be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from localllm.engine.options import ContextOptions
from localllm.library.bench.record import BatchedRow, LatencyRow, ServingRow
from localllm.placement.options import PlanOptions

What = Literal["latency", "batched", "serving"]
Row = LatencyRow | BatchedRow | ServingRow
KINDS: dict[What, type[Row]] = {
    "latency": LatencyRow,
    "batched": BatchedRow,
    "serving": ServingRow,
}


@dataclass(frozen=True)
class Extra:
    """One such measurement. `options` is everything but the context's size; `counts` are the
    numbers of parallel sequences or clients, for latency that of answers. `batched` are the rows
    that serving is held against, `adapters` LoRA files to attach."""

    what: What
    path: str
    options: PlanOptions
    n_threads: int
    n_prompt: int
    n_gen: int
    counts: tuple[int, ...]
    require_gpu: bool = False
    force: bool = False
    batched: tuple[BatchedRow, ...] = ()
    adapters: tuple[str, ...] = ()

    @property
    def attached(self) -> tuple[tuple[Path, float], ...]:
        return tuple((Path(path), 1.0) for path in self.adapters)

    @property
    def n_steps(self) -> int:
        """What `advance` counts to."""
        return self.counts[0] + 1 if self.what == "latency" else len(self.counts)


def measure_extra(extra: Extra, advance: Callable[[int], None]) -> tuple[Row, ...]:
    """Load the model and measure. Raises what opening it and computing raise."""
    measures = {"latency": _latency, "batched": _batched, "serving": _serving}
    return measures[extra.what](extra, advance)


def _latency(extra: Extra, advance: Callable[[int], None]) -> tuple[Row, ...]:
    from localllm.library.bench.measuring.latency import latency
    from localllm.placement import open_model

    options = replace(extra.options, n_ctx=extra.n_prompt + extra.n_gen)
    with open_model(
        Path(extra.path), options, require_gpu=extra.require_gpu, force=extra.force,
        context=ContextOptions(n_threads=extra.n_threads), adapters=extra.attached,
    ) as opened:  # fmt: skip
        return (latency(opened, extra.n_prompt, extra.n_gen, extra.counts[0], advance=advance),)


def _batched(extra: Extra, advance: Callable[[int], None]) -> tuple[Row, ...]:
    from localllm.library.bench.measuring.batched import batched

    return batched(
        Path(extra.path), extra.counts, extra.n_prompt, extra.n_gen, extra.options,
        context=ContextOptions(n_threads=extra.n_threads), require_gpu=extra.require_gpu,
        advance=advance, adapters=extra.attached,
    )  # fmt: skip


def _serving(extra: Extra, advance: Callable[[int], None]) -> tuple[Row, ...]:
    from localllm.library.bench.serving import serving

    return serving(
        Path(extra.path), extra.counts, extra.n_prompt, extra.n_gen, extra.options,
        batched=extra.batched, context=ContextOptions(n_threads=extra.n_threads),
        require_gpu=extra.require_gpu, advance=advance, adapters=extra.attached,
    )  # fmt: skip
