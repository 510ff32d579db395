"""What a benchmark measures: a test under a setup, in llama-bench's terms."""

from __future__ import annotations

from dataclasses import dataclass

from localllm.engine.options import FlashAttention, SplitMode
from localllm.errors import UsageProblem


@dataclass(frozen=True, order=True)
class BenchTest:
    """`n_prompt` tokens processed (pp), `n_gen` generated (tg), or both in turn (pg), after
    `n_depth` untimed tokens are in the cache."""

    n_prompt: int
    n_gen: int
    n_depth: int = 0

    def __post_init__(self) -> None:
        if min(self.n_prompt, self.n_gen, self.n_depth) < 0 or not self.n_tokens:
            raise UsageProblem(
                "a test processes or generates at least one token", "-p 512, -n 128 or -pg 512,128"
            )

    @property
    def name(self) -> str:
        """As llama-bench prints it: `pp512`, `tg128`, `pp512+tg128`, `tg128 @ d4096`."""
        parts = [f"pp{self.n_prompt}"] if self.n_prompt else []
        parts += [f"tg{self.n_gen}"] if self.n_gen else []
        depth = f" @ d{self.n_depth}" if self.n_depth else ""
        return "+".join(parts) + depth

    @property
    def n_tokens(self) -> int:
        """Tokens timed: what a rate is of."""
        return self.n_prompt + self.n_gen

    @property
    def n_ctx(self) -> int:
        """Tokens of context it needs."""
        return self.n_depth + self.n_tokens


@dataclass(frozen=True)
class Setup:
    """How the model is loaded and its context made: llama-bench's parameters and defaults.

    `n_gpu_layers` None offloads what fits by the plan; `n_threads` 0 takes one a physical core
    that this process may use, `n_ubatch` 0 the largest micro-batch that fits. `n_cpu_moe` keeps
    the expert weights of the first so many layers on the CPU.
    """

    n_gpu_layers: int | None = None
    n_cpu_moe: int = 0
    split_mode: SplitMode = "layer"
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()
    mmap: bool = True
    n_batch: int = 2048
    n_ubatch: int = 512
    n_threads: int = 0
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: FlashAttention = "auto"
    no_kv_offload: bool = False

    @property
    def loading(self) -> tuple[object, ...]:
        """What needs the model loaded anew when it differs."""
        return (
            self.n_gpu_layers, self.n_cpu_moe, self.split_mode, self.main_gpu,
            self.tensor_split, self.mmap,
        )  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One row of a sweep before it is measured."""

    setup: Setup
    test: BenchTest
