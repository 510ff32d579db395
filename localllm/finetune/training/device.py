"""Where a run computes: the processor, an NVIDIA or AMD GPU (CUDA, ROCm), or Apple's (MPS).

torch's word decides, not llama.cpp's: the two may be built for different devices. Of several
processes on a machine each has the GPU of its own number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch

from localllm.errors import GpuRequired, UsageProblem
from localllm.finetune.training.prepare import beside, launched, local_rank

Kind = Literal["cpu", "cuda", "mps"]
_HEADROOM = 256 << 20  # of a GPU's memory: cuBLAS' workspaces, kernels, the allocator's holes


@dataclass(frozen=True)
class Device:
    """`name` as torch spells it ("cuda:0"), `description` for people. `free_bytes` may be taken
    by this process, of the device's own memory or of the host's where `shares_host`."""

    name: str
    description: str
    free_bytes: int
    shares_host: bool

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    @property
    def is_cpu(self) -> bool:
        return self.kind == "cpu"

    @property
    def torch(self) -> torch.device:
        return torch.device(self.name)


def choose(wanted: str, host_available_bytes: int) -> Device:
    """The device that `wanted` (auto, cpu, cuda, cuda:N, mps) means for this process; auto is
    CUDA, else MPS, else the CPU, and never what this process would have to share with another.

    `host_available_bytes` is what can be taken of the host's memory. On CUDA it becomes torch's
    current device. Raises GpuRequired where a named one is not there, UsageProblem where it
    cannot be used so.
    """
    if wanted == "auto":
        wanted = _best()
    if wanted == "cpu":
        return Device("cpu", "CPU", host_available_bytes // beside(), shares_host=True)
    if wanted == "mps":
        return _mps(host_available_bytes)
    return _cuda(wanted)


def _best() -> str:
    if torch.cuda.is_available() and local_rank() < torch.cuda.device_count():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() and launched()[1] == 1 else "cpu"


def _cuda(wanted: str) -> Device:
    if not torch.cuda.is_available():
        raise GpuRequired(f"--device {wanted}: {_why_no_cuda()}", "--device cpu")
    count, number = torch.cuda.device_count(), local_rank()
    named = re.fullmatch(r"cuda:(\d+)", wanted)
    if named is not None and beside() > 1:
        raise UsageProblem(
            f"--device {wanted} would put all {beside()} processes on one GPU",
            "--device cuda gives each the one of its number",
        )
    if named is not None:
        number = int(named[1])
    if number >= count:
        what = f"there is no cuda:{number}: torch sees {count} GPU{'s' * (count > 1)}"
        raise GpuRequired(
            what, f"one process for each GPU (up to cuda:{count - 1}), or --device cpu"
        )
    torch.cuda.set_device(number)
    free, _ = torch.cuda.mem_get_info(number)
    # what torch has in hand of it already is free to this process too
    held = torch.cuda.memory_reserved(number) - torch.cuda.memory_allocated(number)
    name = torch.cuda.get_device_name(number)
    return Device(f"cuda:{number}", name, max(0, free + held - _HEADROOM), shares_host=False)


def _why_no_cuda() -> str:
    version = torch.__version__
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this torch ({version}) is built without CUDA"
    return f"torch ({version}) sees no GPU"


def _mps(host_available_bytes: int) -> Device:
    if not torch.backends.mps.is_available():
        raise GpuRequired("--device mps: torch sees no GPU of Apple's", "--device cpu")
    if launched()[1] > 1:
        raise UsageProblem("several processes cannot share Apple's GPU", "--device cpu")
    most = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    free = min(host_available_bytes, most)
    return Device("mps", "Apple GPU", max(0, free), shares_host=True)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given: before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def let_go(device: torch.device) -> None:
    """Give back memory that is kept for later, so that llama.cpp finds it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def of_module(module: torch.nn.Module) -> torch.device:
    """Where a module's parameters are."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
