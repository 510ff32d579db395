"""`plan_for`: where a model goes on a target, and whether it fits.

The layout is decided by arithmetic. Where the target is this machine, llama.cpp's own dry run
then replaces the estimated compute buffers, and the layout is decided again with those until
both agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from localllm.engine.options import ContextOptions, LoadOptions
from localllm.engine.reserve import Reservation
from localllm.errors import UsageProblem
from localllm.formats.gguf import GGUFView
from localllm.hardware import Need, best_plan, largest_n_ctx, planned
from localllm.hardware import Plan as Layout
from localllm.placement.kv import Cache
from localllm.placement.options import PlanOptions
from localllm.placement.parts import (
    Buffers,
    device_needs,
    estimated,
    host_need,
    missing_bytes,
    reserved,
)
from localllm.placement.plan import Plan, Verdict
from localllm.placement.rate import decode_speed
from localllm.placement.sizes import ModelSizes, Repacks, model_sizes
from localllm.placement.target import Target

# llama.cpp's dry run for these options.
Measure = Callable[[LoadOptions, ContextOptions], Reservation]

_ROUNDS = 4  # of deciding and measuring; one or two are the rule
_UNTRAINED_LIMIT = 1 << 20  # the longest context looked at where a file does not say its own


@dataclass(frozen=True)
class Machine:
    """How this machine's llama.cpp is asked: its dry run, and what its CPU copies."""

    measure: Measure
    repacks: Repacks


def plan_for(
    header: GGUFView,
    target: Target,
    options: PlanOptions | None = None,
    machine: Machine | None = None,
) -> Plan:
    """Place a model.

    `header` is one file's, or all shards' as `formats.gguf.combine` gives them. With `machine`
    the compute buffers are llama.cpp's own figures (one or two dry runs, about 0.5 s each);
    it may only be given for a target that is this machine. Without, they are arithmetic.
    What is not planned (matrices split over several GPUs) gets a plan that says so and holds
    only sums. Raises DamagedFile, UsageProblem (cache types that the model cannot have, a GPU
    that is not there), and what a dry run raises.
    """
    options = options or PlanOptions()
    target = _chosen(target, options)
    return _Planner(model_sizes(header, options.n_cpu_moe), target, options, machine).plan()


def _chosen(target: Target, options: PlanOptions) -> Target:
    """The GPUs that the split mode uses."""
    if options.split_mode != "none" or not target.gpus:
        return target
    if options.main_gpu >= len(target.gpus):
        raise UsageProblem(
            f"there is no GPU {options.main_gpu}: llama.cpp finds {len(target.gpus)}, from 0 on",
            "localllm hardware",
        )
    used = () if options.main_gpu < 0 else (target.gpus[options.main_gpu],)
    return replace(target, gpus=used)


class _Planner:
    def __init__(
        self, sizes: ModelSizes, target: Target, options: PlanOptions, machine: Machine | None
    ) -> None:
        self.sizes = sizes
        self.target = target
        self.options = options
        self.machine = machine if target.here else None
        self.unplanned: str | None = None
        if options.split_mode in ("row", "tensor") and len(target.gpus) > 1:
            self.unplanned = (
                f"how --split-mode {options.split_mode} shares memory out over "
                f"{len(target.gpus)} GPUs is llama.cpp's own affair"
            )
            self.machine = None
        self.n_ctx = options.wanted_n_ctx(sizes.shape)
        self.excess = 1.0
        self.repacked = (0, 0)
        if self.machine and not target.gpus:
            self.repacked = sizes.repacked_bytes(self.machine.repacks)

    def plan(self) -> Plan:
        """The layout that offloads most of those that were found to fit; else the last."""
        found = self.candidates()
        self.excess = max(1.0, *(self.excess_of(*one) for one in found))
        tried = [self.judged(layout, reservation) for layout, reservation in found]
        fitting = [plan for plan in tried if plan.runs]
        return max(fitting, key=lambda p: p.n_offloaded) if fitting else tried[-1]

    def candidates(self) -> list[tuple[Layout, Reservation | None]]:
        need = self.need(self.n_ctx)
        layout = self.lay_out(need)
        if self.machine is None:
            return [(layout, None)]
        found: list[tuple[Layout, Reservation | None]] = []
        for _ in range(_ROUNDS):
            context = self.options.context(self.n_ctx)
            reservation = self.machine.measure(self.load_options(layout), context)
            found.append((layout, reservation))
            again = self.lay_out(self.corrected(need, layout, reservation))
            if any(_counts(again) == _counts(one) for one, _ in found):
                break
            layout = again
        return found

    # --- layouts --------------------------------------------------------------------------

    def need(self, n_ctx: int) -> Need:
        """What to decide by; compute buffers are raised by what llama.cpp was found to add."""
        need = self.sizes.need(self.options, n_ctx, len(self.target.gpus))
        return replace(
            need,
            input_bytes=need.input_bytes + self.repacked[1],
            compute_bytes=int(need.compute_bytes * self.excess),
            output_compute_bytes=int(need.output_compute_bytes * self.excess),
            host_compute_bytes=int(need.host_compute_bytes * self.excess),
        )

    def lay_out(self, need: Need) -> Layout:
        devices, available = self.target.devices, self.target.host_available_bytes
        wanted, split = self.options.n_gpu_layers, self.options.tensor_split
        if not devices or (wanted is None and not split and self.unplanned is None):
            return best_plan(need, devices, available)
        if wanted is not None or self.unplanned:
            n = need.n_slots if wanted is None or wanted < 0 else wanted
            return planned(need, devices, available, n, split)
        forced = (planned(need, devices, available, n, split) for n in range(need.n_slots, 0, -1))
        return next((p for p in forced if p.fits), planned(need, devices, available, 0))

    def load_options(self, layout: Layout) -> LoadOptions:
        """What makes llama.cpp place the layers as `layout` says."""
        options = self.options
        if self.unplanned:
            wanted = options.n_gpu_layers
            return LoadOptions(
                n_gpu_layers=-1 if wanted is None else wanted,
                n_cpu_moe=options.n_cpu_moe,
                split_mode=options.split_mode,
                main_gpu=options.main_gpu,
                tensor_split=options.tensor_split,
                mmap=options.mmap,
            )
        used = [i for i, share in enumerate(layout.devices) if share.n_slots]
        split = tuple(float(layout.devices[i].n_slots) for i in used)
        names = tuple(self.target.gpus[i].ggml_name or "" for i in used)
        return LoadOptions(
            n_gpu_layers=sum(layout.devices[i].n_slots for i in used),
            n_cpu_moe=options.n_cpu_moe,
            split_mode=options.split_mode,
            tensor_split=split if len(used) > 1 else (),
            # None at all, where none is used: prompts would be computed on one that is named.
            devices=names if self.target.here else None,
            mmap=options.mmap,
        )

    def corrected(self, need: Need, layout: Layout, reservation: Reservation) -> Need:
        """`need` with the compute buffers that llama.cpp reserved for `layout`."""
        sizes = reserved(reservation, self.target).devices
        used = [
            (share, size)
            for share, size in zip(layout.devices, sizes, strict=True)
            if share.n_slots
        ]
        if not used:
            return need
        plain = [size for share, size in used if not share.holds_output]
        output = [size for share, size in used if share.holds_output]
        most = max(plain or output)
        return replace(
            need,
            compute_bytes=most,
            output_compute_bytes=max(0, *(size - most for size in output)) if output else 0,
            partial_compute_bytes=0,  # in the first device's buffer already
        )

    def excess_of(self, layout: Layout, reservation: Reservation | None) -> float:
        """llama.cpp's compute buffers as a multiple of the estimated ones, the worst device's."""
        if reservation is None:
            return 1.0
        real, guess = reserved(reservation, self.target), self.buffers(layout, None)
        pairs = [*zip(real.devices, guess.devices, strict=True), (real.host, guess.host)]
        return max(a / b for a, b in pairs if b)

    # --- the result -----------------------------------------------------------------------

    def judged(self, layout: Layout, reservation: Reservation | None) -> Plan:
        shape, cache = self.sizes.shape, self.sizes.cache(self.options, self.n_ctx)
        if reservation is not None and not shape.exact:
            cache = _scaled(cache, reservation.kv_bytes)
        buffers = self.buffers(layout, reservation)
        devices = device_needs(self.sizes, self.target, layout, cache, buffers, self.options)
        host = host_need(
            self.sizes, self.target, layout, cache, buffers, self.repacked, self.options
        )
        missing = 0 if self.unplanned else missing_bytes(devices, host, self.target)
        offloaded = sum(share.n_slots for share in layout.devices)
        return Plan(
            verdict=_verdict(missing, offloaded, layout.n_slots, bool(self.target.gpus)),
            runs=missing == 0,
            missing_bytes=missing,
            n_layers=layout.n_slots,
            n_offloaded=offloaded,
            devices=devices,
            host=host,
            n_ctx=self.n_ctx,
            n_parallel=self.options.n_parallel,
            n_ctx_train=shape.n_ctx_train,
            largest_n_ctx=self.longest(gpu=False),
            largest_n_ctx_gpu=self.longest(gpu=True) if self.target.gpus else 0,
            speed=decode_speed(self.sizes, self.target, devices, host, cache, self.options),
            basis="llama.cpp" if reservation else "arithmetic",
            cache_exact=shape.exact or reservation is not None,
            load=self.load_options(layout),
            context=self.options.context(self.n_ctx),
            unplanned=self.unplanned,
        )

    def buffers(self, layout: Layout, reservation: Reservation | None) -> Buffers:
        if reservation is not None:
            return reserved(reservation, self.target)
        compute = self.sizes.compute(self.options, self.n_ctx)
        return estimated(self.sizes, compute, layout, self.options)

    def longest(self, *, gpu: bool) -> int:
        """The longest context of a conversation with all layers on GPUs, or at all."""
        return largest_n_ctx(
            self.need,
            self.target.devices,
            self.target.host_available_bytes,
            limit=self.sizes.shape.n_ctx_train or _UNTRAINED_LIMIT,
            verdict="all" if gpu else "cpu",
        )


def _verdict(missing: int, offloaded: int, n_slots: int, has_gpu: bool) -> Verdict:
    if missing:
        return "none"
    if not has_gpu:
        return "cpu"
    if offloaded == n_slots:
        return "all"
    return "partial" if 2 * offloaded >= n_slots else "none"


def _counts(layout: Layout) -> list[int]:
    return [share.n_slots for share in layout.devices]


def _scaled(cache: Cache, kv_bytes: int) -> Cache:
    """An inexact cache, shared out so that its sum is llama.cpp's own."""
    n, total = len(cache.kv_bytes), cache.total_kv_bytes
    shares = [size / total if total else 1 / n for size in cache.kv_bytes]
    return replace(cache, kv_bytes=tuple(int(kv_bytes * share) for share in shares))
