"""A plan: what goes where, what it takes, and whether that fits. Plain frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from localllm.engine.options import ContextOptions, LoadOptions
from localllm.hardware import Estimate

# all      every layer, the output's included, on GPUs
# partial  at least half of them: the GPUs do most of the work
# cpu      there is no GPU, and the model fits in main memory
# none     it does not fit; or only with less than half of its layers on the GPUs, so that the
#          CPU does most of the work and sets the speed (`Plan.runs` then says that it would)
Verdict = Literal["all", "partial", "cpu", "none"]

# "arithmetic": no llama.cpp was asked about this hardware; "llama.cpp": its own reservation
Basis = Literal["llama.cpp", "arithmetic"]

# Bounds of the error of arithmetic compute buffers: of the buffer, and of a model's whole need.
# Measured by benchmarks/fit_error.py on the shapes of 31 models under 27 sets of options each:
# 16 % and 3.0 % at worst; with the default micro-batch of 512, 0.7 % of models over 1 B.
COMPUTE_ERROR = 0.20
TOTAL_ERROR = 0.04


@dataclass(frozen=True)
class DeviceNeed:
    """What one GPU holds, in bytes.

    `n_layers` counts repeating layers, from `first_layer` on (None: it holds none).
    `free_bytes` is what a process finds free, of which `headroom_bytes` are left alone.
    """

    name: str
    description: str
    first_layer: int | None
    n_layers: int
    holds_output: bool
    weights_bytes: int
    kv_bytes: int
    state_bytes: int
    compute_bytes: int
    total_memory_bytes: int
    free_bytes: int
    headroom_bytes: int
    total_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        total = self.weights_bytes + self.kv_bytes + self.state_bytes + self.compute_bytes
        object.__setattr__(self, "total_bytes", total)

    @property
    def missing_bytes(self) -> int:
        return max(0, self.total_bytes - (self.free_bytes - self.headroom_bytes))


@dataclass(frozen=True)
class HostNeed:
    """What main memory holds, in bytes.

    `mapped_bytes` of the weights are the file's own pages, which the system may drop and read
    again; the rest is memory proper (`repacked_bytes` are the CPU's own copies). `logits_bytes`
    is where results are copied to.
    """

    n_layers: int
    holds_output: bool
    weights_bytes: int
    mapped_bytes: int
    repacked_bytes: int
    kv_bytes: int
    state_bytes: int
    compute_bytes: int
    logits_bytes: int
    available_bytes: int
    total_memory_bytes: int
    total_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        total = self.weights_bytes + self.kv_bytes + self.state_bytes
        total += self.compute_bytes + self.logits_bytes
        object.__setattr__(self, "total_bytes", total)


@dataclass(frozen=True)
class Plan:
    """Where everything goes and what it takes.

    Layers are counted with the output layer as one more, as llama.cpp does: `n_offloaded` of
    `n_layers`. `n_ctx` is what each of `n_parallel` conversations may use. `largest_n_ctx` is
    the longest context at which the model still runs in some way, `largest_n_ctx_gpu` with
    every layer on GPUs (0: at none); both are bounded by the trained context where that is
    known. `runs` says that the memory suffices, however slow. `missing_bytes` is what the
    memory lacks when it does not. `speed` is for one conversation whose context is half full.
    `compute_error` is how far `compute_bytes` may be off, as a share of it. `unplanned` says why
    the devices' figures are not where llama.cpp will put things; `runs` is then not known.
    """

    verdict: Verdict
    runs: bool
    missing_bytes: int
    n_layers: int
    n_offloaded: int
    devices: tuple[DeviceNeed, ...]
    host: HostNeed
    n_ctx: int
    n_parallel: int
    n_ctx_train: int
    largest_n_ctx: int
    largest_n_ctx_gpu: int
    speed: Estimate | None
    basis: Basis
    cache_exact: bool
    load: LoadOptions
    context: ContextOptions
    unplanned: str | None = None

    # Sums over the devices and the host; compute buffers include the logits.
    weights_bytes: int = field(init=False)
    kv_bytes: int = field(init=False)
    state_bytes: int = field(init=False)
    compute_bytes: int = field(init=False)
    gpu_bytes: int = field(init=False)
    total_bytes: int = field(init=False)
    compute_error: float = field(init=False)

    def __post_init__(self) -> None:
        for part in ("weights_bytes", "kv_bytes", "state_bytes", "compute_bytes"):
            sums = getattr(self.host, part) + sum(getattr(d, part) for d in self.devices)
            logits = self.host.logits_bytes if part == "compute_bytes" else 0
            object.__setattr__(self, part, sums + logits)
        gpu_bytes = sum(device.total_bytes for device in self.devices)
        object.__setattr__(self, "gpu_bytes", gpu_bytes)
        object.__setattr__(self, "total_bytes", self.host.total_bytes + gpu_bytes)
        asked = self.basis == "llama.cpp"
        object.__setattr__(self, "compute_error", 0.0 if asked else COMPUTE_ERROR)

    @property
    def paged_bytes(self) -> int:
        """Where main memory is short by less than the file's mapped pages: what llama.cpp would
        read from the disk again for every token (it starts, and crawls). Else 0."""
        short_on_gpu = any(d.missing_bytes for d in self.devices if d.n_layers or d.holds_output)
        if short_on_gpu or self.missing_bytes > self.host.mapped_bytes:
            return 0
        return self.missing_bytes

    @property
    def n_gpu_layers(self) -> int:
        return self.load.n_gpu_layers

    @property
    def tensor_split(self) -> tuple[float, ...]:
        return self.load.tensor_split
