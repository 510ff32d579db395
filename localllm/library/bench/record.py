"""What a benchmark found, as it is kept in the registry and printed as JSON.

Everything here is plain data: `asdict` of a run is its JSON, `restore.run_from` reads it back.
Bytes, seconds, hertz, watts, joules; `*_ns` nanoseconds and `*_ts` tokens per second where
llama-bench has them so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SCHEMA = 1  # of a run; raised when a field changes its meaning

FailureKind = Literal["does_not_fit", "out_of_memory", "crashed", "time_limit", "refused"]


@dataclass(frozen=True)
class Failure:
    """Why a row has no figures.

    does_not_fit: by the plan, so it was not tried. out_of_memory: llama.cpp or the system
    refused memory, or the kernel killed the process for it. crashed: the native code ended the
    process. time_limit: not done in time. refused: llama.cpp does not do this combination.
    """

    kind: FailureKind
    message: str


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of one device ("CUDA0", or "CPU" for main memory): what the plan said and what
    llama.cpp then took, in bytes. `measured_bytes` is the sum of the three after it.

    `process_bytes` is what the driver (NVML) or the system (resident set) books on this process
    beside that, None where it does not tell: it holds the driver's own context too.
    """

    device: str
    predicted_bytes: int
    measured_bytes: int
    weights_bytes: int
    context_bytes: int  # KV cache and recurrent state
    compute_bytes: int  # compute buffers and logits
    process_bytes: int | None = None

    @property
    def error(self) -> float | None:
        """(predicted - measured) / measured, None where nothing was measured."""
        if not self.measured_bytes:
            return None
        return (self.predicted_bytes - self.measured_bytes) / self.measured_bytes


@dataclass(frozen=True)
class Evidence:
    """Under what conditions the samples of a row were taken. None: nobody tells.

    Clocks, temperature and power are those of the devices that computed (GPUs if any layer was
    on one, else the processor); with several, clocks are the lowest, temperature the highest,
    power and energy sums. `other_cores` is how many cores other processes kept busy, on average;
    `own_cores` how many this one did. `energy_basis` says who metered: "nvml", "rapl" or both.
    `noisy` lists, in words, why the row should not be trusted; empty for a quiet run.
    """

    measured_s: float
    mean_clock_hz: int | None = None
    min_clock_hz: int | None = None
    max_temperature_c: float | None = None
    throttled: tuple[str, ...] = ()
    mean_power_w: float | None = None
    energy_j: float | None = None
    joules_per_token: float | None = None
    energy_basis: str | None = None
    own_cores: float | None = None
    other_cores: float | None = None
    noisy: tuple[str, ...] = ()


@dataclass(frozen=True)
class BenchRow:
    """One test under one setup. llama-bench's field names and units first, then ours.

    A failed row has `failure`, and 0 and empty where samples would be. `ci95_low_ts` and
    `ci95_high_ts` bound the mean rate (bootstrap over the samples, 95 %). `bytes_per_token` is
    what generating one token reads: the weights it uses and the cache at the test's middle;
    `bandwidth_bytes_s` that times the rate, and `bandwidth_efficiency` its share of
    `peak_bandwidth_bytes_s` (`peak_basis`: "driver", "catalogue" or "measured"); None for rows
    that process prompts.
    """

    build_commit: str
    build_number: int
    cpu_info: str
    gpu_info: str
    backends: str
    model_filename: str
    model_type: str
    model_size: int
    model_n_params: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    type_k: str
    type_v: str
    n_gpu_layers: int
    n_cpu_moe: int
    split_mode: str
    main_gpu: int
    no_kv_offload: bool
    flash_attn: int  # -1 auto, 0 off, 1 on
    tensor_split: str
    n_prompt: int
    n_gen: int
    n_depth: int
    test_time: str
    avg_ns: float
    stddev_ns: float
    avg_ts: float
    stddev_ts: float
    samples_ns: tuple[int, ...]
    samples_ts: tuple[float, ...]
    # --- ours ---
    model: str
    test: str
    sha256: str | None
    failure: Failure | None
    ci95_low_ts: float | None
    ci95_high_ts: float | None
    n_layers: int
    n_layers_offloaded: int
    load_s: float
    memory: tuple[DeviceMemory, ...]
    evidence: Evidence | None
    bytes_per_token: float | None = None
    bandwidth_bytes_s: float | None = None
    peak_bandwidth_bytes_s: float | None = None
    peak_basis: str | None = None
    bandwidth_efficiency: float | None = None
    localllm_version: str = ""

    @property
    def predicted_bytes(self) -> int:
        return sum(m.predicted_bytes for m in self.memory)

    @property
    def measured_bytes(self) -> int:
        return sum(m.measured_bytes for m in self.memory)


@dataclass(frozen=True)
class LoadTimes:
    """Seconds from nothing to a model with a context. Cold: its file was not in the page cache
    when loading began, None where the system cannot be asked to drop it."""

    cold_s: tuple[float, ...]
    warm_s: tuple[float, ...]
    cold_refused: str | None = None  # why there are no cold loads


@dataclass(frozen=True)
class Percentiles:
    """Of `n` values, in seconds."""

    n: int
    mean_s: float
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True)
class LatencyRow:
    """Answers through the real generation path: prompt, sampling, text.

    `first_token` runs from the call to the first piece of text, `inter_token` between tokens
    after it (of all answers together).
    """

    n_prompt: int
    n_gen: int
    n_answers: int
    first_token: Percentiles
    inter_token: Percentiles
    prompt_tps: float
    decode_tps: float


@dataclass(frozen=True)
class BatchedRow:
    """`n_parallel` sequences decoding together, each with its own prompt (llama-batched-bench's
    method). Rates are of all sequences together."""

    n_parallel: int
    n_prompt: int
    n_gen: int
    prompt_s: float
    prompt_tps: float
    decode_s: float
    decode_tps: float
    failure: Failure | None = None


@dataclass(frozen=True)
class ServingRow:
    """`n_parallel` clients at the engine's scheduler, each asking again when answered.

    `decode_tps` counts generated tokens of all clients over the time it took. `gap` is its
    share of the batched row with as many sequences less one: -0.07 is 7 % slower.
    """

    n_parallel: int
    n_requests: int
    n_prompt: int
    n_gen: int
    total_s: float
    decode_tps: float
    requests_s: float
    first_token: Percentiles
    inter_token: Percentiles
    gap: float | None
    failure: Failure | None = None


@dataclass(frozen=True)
class Machine:
    """What figures may be compared across: the same machine has the same `fingerprint`."""

    fingerprint: str  # sha256 over the fields that matter, first 16 hex digits
    host: str
    system: str
    kernel: str
    cpu: str
    n_cores: int
    n_threads: int
    memory_bytes: int
    gpus: tuple[str, ...]
    driver: str | None


@dataclass(frozen=True)
class BenchRun:
    """Everything one `localllm bench` measured on one model.

    `id` numbers its measurement in the registry, None for what is not kept there. `complete` is
    False while rows are missing: a sweep that was interrupted. `sweep` names what was asked
    for, so that `--resume` finds it. `source` is "localllm", or "llama-bench" for an import.
    """

    schema: int
    id: int | None
    model: str
    sha256: str | None
    tag: str | None
    started_at: float  # seconds since the epoch
    complete: bool
    sweep: str
    command: str
    machine: Machine | None
    versions: dict[str, str]
    rows: tuple[BenchRow, ...]
    load: LoadTimes | None = None
    latency: tuple[LatencyRow, ...] = ()
    batched: tuple[BatchedRow, ...] = ()
    serving: tuple[ServingRow, ...] = ()
    source: str = "localllm"
