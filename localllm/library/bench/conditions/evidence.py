"""Under what conditions samples were taken: watched while they are, judged afterwards."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from localllm.library.bench.record import Evidence

if TYPE_CHECKING:
    from localllm.hardware import CpuLoad, CpuSampler, Gpu, GpuLoad, GpuSampler
    from localllm.placement import Opened

# When a row is called noisy (benchmarks/noise_threshold.py shows what each costs). Compute
# threads meet at a barrier after every operation, so where no core is free another process that
# takes a tenth of one makes all of them up to a tenth slower; where cores are free, it moves there.
OTHER_CORES = 0.25
OTHER_CORES_WHEN_FULL = 0.10
STOLEN_CORES = 0.05
CLOCK_DROP = 0.90  # lowest clock as a share of the mean
DEVIATION = 0.05  # of the samples, as a share of their mean
_TICK_S = 0.05  # processor time below this may be rounding of the kernel's ticks


class Observation:
    """Watches a measurement: `with observe(...) as seen`, each timed stretch in
    `with seen.timed()`, then `seen.evidence(n_tokens)` once the block has ended.

    Without `timed()` the whole block counts, warm-up and fills included.
    """

    def __init__(self, uses_gpu: bool, gpu_indices: Collection[int] | None) -> None:
        from localllm.hardware import CpuSampler, GpuSampler

        self._uses_gpu = uses_gpu
        self._gpu_indices = gpu_indices
        self._cpu: CpuSampler = CpuSampler()
        self._gpu: GpuSampler | None = GpuSampler() if uses_gpu else None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._gpu is not None:
            self._stack.enter_context(self._gpu)
        self._stack.enter_context(self._cpu)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Count what runs inside. Costs a few milliseconds before and after, none between."""
        with self._gpu.watch() if self._gpu else contextlib.nullcontext(), self._cpu.watch():
            yield

    def evidence(self, n_tokens: int, samples_ts: Sequence[float] = ()) -> Evidence:
        """What was seen. `n_tokens` were computed in all timed stretches together;
        `samples_ts` are the rates of the repetitions, whose spread is judged too."""
        cpu = self._cpu.load
        assert cpu is not None, "the observation has not ended"
        loads = self._gpu.loads if self._gpu else ()
        gpus = [g for g in loads if self._gpu_indices is None or g.index in self._gpu_indices]
        return judged(cpu, gpus, self._uses_gpu, n_tokens, samples_ts)


def observe(
    uses_gpu: bool, *, gpu_indices: Collection[int] | None = None
) -> AbstractContextManager[Observation]:
    """Watch the processor, and the NVIDIA GPUs if `uses_gpu` (those of `gpu_indices`, NVML's
    numbers; None: all)."""
    return Observation(uses_gpu, gpu_indices)


def observe_opened(opened: Opened) -> AbstractContextManager[Observation]:
    """Watch what this model runs on: the GPUs that hold a layer of it, and the processor."""
    from localllm.library.bench.measuring.devices import gpus_by_name

    names = [name for name, _ in opened.placed.devices if name != "CPU"]
    return observe(bool(names), gpu_indices=_nvml_indices(names, gpus_by_name() if names else {}))


def _nvml_indices(names: Sequence[str], known: Mapping[str, Gpu]) -> frozenset[int] | None:
    """NVML's numbers of these ggml devices; a slice of a GPU (MIG) is metered with the whole.
    None, that is all of them, where a CUDA device cannot be told from the others."""
    if any(name.startswith("CUDA") and name not in known for name in names):
        return None
    gpus = [known[name] for name in names if name in known and known[name].source == "nvml"]
    return frozenset(g.index if g.parent_index is None else g.parent_index for g in gpus)


def judged(
    cpu: CpuLoad,
    gpus: Sequence[GpuLoad],
    uses_gpu: bool,
    n_tokens: int,
    samples_ts: Sequence[float] = (),
) -> Evidence:
    """The evidence of what the samplers saw."""
    energy_j, basis = _energy(cpu, gpus, uses_gpu)
    seconds = cpu.measured_s
    if uses_gpu:
        means = [g.mean_clock_hz for g in gpus if g.mean_clock_hz is not None]
        lowest = [g.min_clock_hz for g in gpus if g.min_clock_hz is not None]
        heat: list[float] = [g.max_temperature_c for g in gpus if g.max_temperature_c is not None]
        throttled = tuple(dict.fromkeys(reason for g in gpus for reason in g.throttled))
    else:
        means = [cpu.mean_clock_hz] if cpu.mean_clock_hz is not None else []
        lowest = [cpu.min_clock_hz] if cpu.min_clock_hz is not None else []
        heat = [cpu.max_temperature_c] if cpu.max_temperature_c is not None else []
        throttled = cpu.throttled
    return Evidence(
        measured_s=seconds,
        mean_clock_hz=min(means, default=None),
        min_clock_hz=min(lowest, default=None),
        max_temperature_c=max(heat, default=None),
        throttled=throttled,
        mean_power_w=energy_j / seconds if energy_j is not None and seconds else None,
        energy_j=energy_j,
        joules_per_token=energy_j / n_tokens if energy_j is not None and n_tokens else None,
        energy_basis=basis,
        own_cores=cpu.own_cores,
        other_cores=cpu.other_cores,
        noisy=tuple(_reasons(cpu, means, lowest, throttled, samples_ts)),
    )


def _energy(
    cpu: CpuLoad, gpus: Sequence[GpuLoad], uses_gpu: bool
) -> tuple[float | None, str | None]:
    """Joules of everything that computed, and who metered. GPUs without a meter leave none:
    the processor's share alone would pass for the whole."""
    metered = [g.energy_j for g in gpus if g.energy_j is not None]
    if uses_gpu and (not metered or len(metered) < len(gpus)):
        return None, None
    parts = [("nvml", sum(metered))] if uses_gpu else []
    if cpu.energy_j is not None:
        parts.append(("rapl", cpu.energy_j))
    if not parts:
        return None, None
    return sum(joules for _, joules in parts), "+".join(name for name, _ in parts)


def _reasons(
    cpu: CpuLoad,
    means: Sequence[int],
    lowest: Sequence[int],
    throttled: Sequence[str],
    samples_ts: Sequence[float],
) -> Iterator[str]:
    full = cpu.own_cores + cpu.other_cores > 0.9 * cpu.n_cpus
    limit = OTHER_CORES_WHEN_FULL if full else OTHER_CORES
    if cpu.other_cores > limit and cpu.other_cores * cpu.measured_s > _TICK_S:
        yield f"other processes kept {cpu.other_cores:.2f} cores busy"
    if cpu.stolen_cores > STOLEN_CORES and cpu.stolen_cores * cpu.measured_s > _TICK_S:
        yield f"the virtual machine's host took {cpu.stolen_cores:.2f} cores away"
    if "quota" in cpu.throttled:
        yield "the container's CPU quota stopped this process"
    slowed = [reason for reason in throttled if reason != "quota"]
    if slowed:
        yield f"throttled: {', '.join(slowed)}"
    elif means and lowest and min(lowest) < CLOCK_DROP * min(means):
        yield f"clocks dropped to {min(lowest) / min(means):.0%} of their mean"
    if len(samples_ts) > 1:
        mean = statistics.fmean(samples_ts)
        spread = statistics.stdev(samples_ts) / mean if mean else 0.0
        if spread > DEVIATION:
            yield f"the samples differ by {spread:.0%} (deviation over mean)"
