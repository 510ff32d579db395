"""Which of the machine's GPUs this build of llama.cpp can use, and the command that adds one."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from localllm.hardware.catalogue import family, match_gpu
from localllm.hardware.machine import Gpu, Vendor, canonical_pci_id

Backend = Literal["CUDA", "HIP", "Vulkan", "Metal", "SYCL"]
DeviceKind = Literal["cpu", "gpu", "igpu", "accel"]

REQUIREMENT = "llama-cpp-python>=0.3.36,<0.4"
CMAKE_ARGS: dict[Backend, str] = {
    "CUDA": "-DGGML_CUDA=on",
    "HIP": "-DGGML_HIP=on",
    "Vulkan": "-DGGML_VULKAN=on",
    "Metal": "-DGGML_METAL=on",
    "SYCL": "-DGGML_SYCL=on -DCMAKE_C_COMPILER=icx -DCMAKE_CXX_COMPILER=icpx",
}
NEEDS: dict[Backend, str] = {
    "CUDA": "the CUDA toolkit (nvcc) and a C++ compiler",
    "HIP": "ROCm (hipcc) and a C++ compiler",
    "Vulkan": "the Vulkan SDK (headers and glslc) and a C++ compiler",
    "Metal": "Xcode's command line tools",
    "SYCL": "Intel oneAPI, with its setvars script run in this shell",
}
FOR_VENDOR: dict[Vendor, tuple[Backend, ...]] = {
    "nvidia": ("CUDA", "Vulkan"),
    "amd": ("HIP", "Vulkan"),
    "intel": ("SYCL", "Vulkan"),
    "apple": ("Metal",),
    "other": ("Vulkan",),
}
# ggml's names for its backend registries and the beginnings of its device names.
GGML_NAMES: dict[str, Backend] = {
    "cuda": "CUDA", "rocm": "HIP", "hip": "HIP", "vulkan": "Vulkan", "mtl": "Metal",
    "metal": "Metal", "sycl": "SYCL",
}  # fmt: skip
BACKEND_VENDOR: dict[Backend, Vendor] = {
    "CUDA": "nvidia", "HIP": "amd", "Metal": "apple", "SYCL": "intel",
}  # fmt: skip


@dataclass(frozen=True)
class BackendDevice:
    """A device as a ggml backend lists it. `device_id` is its PCI address where it says one."""

    name: str  # "CUDA0", "Vulkan1", "MTL0", "CPU"
    description: str  # "NVIDIA GeForce RTX 4090"
    kind: DeviceKind
    total_bytes: int
    free_bytes: int
    device_id: str | None = None

    @property
    def backend(self) -> Backend | None:
        """The backend it belongs to, None for the CPU and backends without a GPU of their own."""
        found = re.match(r"[a-z]+", self.name.lower())
        return GGML_NAMES.get(found[0]) if found else None


@dataclass(frozen=True)
class Rebuild:
    """A build that would use the GPU: the exact command, and what has to be installed first."""

    backend: Backend
    command: str
    needs: str


@dataclass(frozen=True)
class UsableGpu:
    """A GPU and the devices of this build that are it (several backends may offer one GPU)."""

    gpu: Gpu
    devices: tuple[BackendDevice, ...]


@dataclass(frozen=True)
class UnusedGpu:
    """A GPU that this build does not offer. `rebuilds` is empty where no build would help."""

    gpu: Gpu
    reason: Literal["no_backend", "hidden", "not_offered"]
    message: str
    rebuilds: tuple[Rebuild, ...]


@dataclass(frozen=True)
class BuildMatch:
    """`others`: devices of the build that no known GPU accounts for (other hosts, iGPUs)."""

    usable: tuple[UsableGpu, ...]
    unused: tuple[UnusedGpu, ...]
    others: tuple[BackendDevice, ...]


def match_build(
    gpus: Sequence[Gpu],
    devices: Sequence[BackendDevice],
    *,
    backends: Collection[str] = (),
    system: str = "Linux",
) -> BuildMatch:
    """Say which GPUs the build can use.

    `gpus` from `detect`, `devices` from the engine. `backends` are the names of the backends
    compiled in: a GPU whose backend is there but does not offer it needs a newer driver, not
    another build. `system` (platform.system()) picks the shell of the commands.
    A GPU matches by PCI address, else by name, else by vendor; each device is one GPU's.
    Devices of other machines (RPC) are nobody's here.
    """
    offered = [d for d in devices if d.kind in ("gpu", "igpu")]
    remote = [d for d in offered if d.name.upper().startswith("RPC")]
    free = [d for d in offered if d not in remote]
    built_in = {GGML_NAMES.get(b.lower()) for b in backends} | {d.backend for d in free}
    whole = [g for g in gpus if g.kind != "mig_parent"]
    found: dict[int, list[BackendDevice]] = {}
    for judge in (_same_address, _same_name, _same_vendor):
        for position, gpu in enumerate(whole):
            mine = found.setdefault(position, [])
            for device in list(free):
                has = {d.backend for d in mine}
                if gpu.hidden_by is None and device.backend not in has and judge(gpu, device):
                    mine.append(device)
                    free.remove(device)
    pairs = [(gpu, tuple(found[i])) for i, gpu in enumerate(whole)]
    usable = tuple(UsableGpu(_merged(gpu, mine), mine) for gpu, mine in pairs if mine)
    unused = tuple(_unused(gpu, built_in, system) for gpu, mine in pairs if not mine)
    return BuildMatch(usable, unused, (*free, *remote))


def rebuilds_for(vendor: Vendor, system: str) -> tuple[Rebuild, ...]:
    """The builds that use a GPU of this vendor, the fastest first."""
    names = FOR_VENDOR[vendor]
    if vendor == "amd" and system == "Windows":
        names = tuple(reversed(names))  # ROCm's compiler is seldom there
    return tuple(Rebuild(b, rebuild_command(b, system), NEEDS[b]) for b in names)


def rebuild_command(backend: Backend, system: str) -> str:
    """The line that installs llama-cpp-python anew with `backend`, for this system's shell."""
    # --no-deps: or everything it depends on would be installed anew with it
    install = f"pip install --force-reinstall --no-deps --no-cache-dir '{REQUIREMENT}'"
    if system == "Windows":
        arguments = CMAKE_ARGS[backend].replace("=icx ", "=cl ").replace("=icpx", "=icx")
        return f'$env:CMAKE_ARGS="{arguments}"; {install}'
    return f'CMAKE_ARGS="{CMAKE_ARGS[backend]}" {install}'


def _unused(gpu: Gpu, built_in: Collection[Backend | None], system: str) -> UnusedGpu:
    rebuilds = rebuilds_for(gpu.vendor, system)
    if gpu.hidden_by:
        return UnusedGpu(gpu, "hidden", f"{gpu.name} is hidden by {gpu.hidden_by}", ())
    native = [r.backend for r in rebuilds if r.backend in built_in]
    if native:
        message = f"this build has {native[0]}, but {native[0]} does not offer {gpu.name}"
        return UnusedGpu(gpu, "not_offered", f"{message}: its driver may be missing or too old", ())
    message = f"this build of llama.cpp cannot use {gpu.name}"
    return UnusedGpu(gpu, "no_backend", message, rebuilds)


def _merged(gpu: Gpu, devices: Sequence[BackendDevice]) -> Gpu:
    """`gpu` with the memory that the backend reports where no driver told it.

    An Apple GPU's total is a rule of thumb until Metal says the real one.
    """
    device = devices[0]
    if gpu.total_bytes is not None and gpu.source != "apple":
        return gpu
    return replace(
        gpu,
        total_bytes=device.total_bytes,
        free_bytes=device.free_bytes,
        unified=gpu.unified or device.kind == "igpu",
    )


def _same_address(gpu: Gpu, device: BackendDevice) -> bool:
    address = canonical_pci_id(device.device_id) if device.device_id else None
    return address is not None and address == gpu.pci_bus_id


def _same_name(gpu: Gpu, device: BackendDevice) -> bool:
    if _contradicts(gpu, device):
        return False
    ours, theirs = _plain(gpu.name), _plain(device.description)
    if ours == theirs:
        return True
    model = match_gpu(gpu.name, gpu.total_bytes)
    return model is not None and model == match_gpu(device.description, device.total_bytes)


def _same_vendor(gpu: Gpu, device: BackendDevice) -> bool:
    """The last resort, for names that differ (sysfs knows a chip, Vulkan a product)."""
    return not _contradicts(gpu, device) and _vendor(device) == gpu.vendor


def _contradicts(gpu: Gpu, device: BackendDevice) -> bool:
    """Whether address or model say that the two are different cards."""
    ours, theirs = family(gpu.name), family(device.description)
    if ours is not None and theirs is not None and ours != theirs:
        return True
    address = canonical_pci_id(device.device_id) if device.device_id else None
    return address is not None and gpu.pci_bus_id is not None and address != gpu.pci_bus_id


def _vendor(device: BackendDevice) -> Vendor:
    if device.backend in BACKEND_VENDOR:
        return BACKEND_VENDOR[device.backend]
    words = set(re.findall(r"[a-z]+", device.description.lower()))
    marks: dict[Vendor, set[str]] = {
        "nvidia": {"nvidia", "geforce", "quadro", "tesla"},
        "amd": {"amd", "radeon", "instinct"},
        "intel": {"intel", "arc", "iris"},
        "apple": {"apple"},
    }
    return next((vendor for vendor, names in marks.items() if words & names), "other")


def _plain(name: str) -> str:
    """Without driver notes in brackets ("(RADV NAVI31)"), case and spacing."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\([^)]*\)", "", name.lower()))
