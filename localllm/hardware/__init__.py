"""What this machine has, and pure arithmetic on what fits. The only importer of pynvml and psutil.

`detect()` looks at the machine; `match_build` sets its GPUs against what llama.cpp offers;
`best_plan` says which layers go where; the catalogue knows GPUs that are not here.
"""

from localllm.hardware.bandwidth import MemoryBandwidth, measure_memory_bandwidth
from localllm.hardware.builds import (
    BackendDevice,
    BuildMatch,
    Rebuild,
    UnusedGpu,
    UsableGpu,
    match_build,
    rebuild_command,
    rebuilds_for,
)
from localllm.hardware.catalogue import GpuModel, catalogue, match_gpu, parse_gpu_spec, parse_size
from localllm.hardware.cpu_sampler import CpuLoad, CpuSampler
from localllm.hardware.detect import detect, disk_space
from localllm.hardware.fits import best_plan, largest_n_ctx, largest_parallel, planned
from localllm.hardware.layout import Device, Need, Plan, Share, Verdict
from localllm.hardware.machine import Cpu, Disk, Finding, Gpu, Hardware, Memory, NvmlStatus
from localllm.hardware.processes import gpu_process_bytes, resident_bytes
from localllm.hardware.sampler import GpuLoad, GpuSampler
from localllm.hardware.speed import DecodeWork, Estimate, estimate_decode_tps
from localllm.hardware.split_rule import assign

__all__ = [
    "BackendDevice",
    "BuildMatch",
    "Cpu",
    "CpuLoad",
    "CpuSampler",
    "DecodeWork",
    "Device",
    "Disk",
    "Estimate",
    "Finding",
    "Gpu",
    "GpuLoad",
    "GpuModel",
    "GpuSampler",
    "Hardware",
    "Memory",
    "MemoryBandwidth",
    "Need",
    "NvmlStatus",
    "Plan",
    "Rebuild",
    "Share",
    "UnusedGpu",
    "UsableGpu",
    "Verdict",
    "assign",
    "best_plan",
    "catalogue",
    "detect",
    "disk_space",
    "estimate_decode_tps",
    "gpu_process_bytes",
    "largest_n_ctx",
    "largest_parallel",
    "match_build",
    "match_gpu",
    "measure_memory_bandwidth",
    "parse_gpu_spec",
    "parse_size",
    "planned",
    "rebuild_command",
    "rebuilds_for",
    "resident_bytes",
]
