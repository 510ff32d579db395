"""What this build of llama.cpp is and which devices it can use."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Literal

from localllm.engine import native, rpc

DeviceType = Literal["cpu", "gpu", "igpu", "accel", "meta"]
_DEVICE_TYPES: tuple[DeviceType, ...] = ("cpu", "gpu", "igpu", "accel", "meta")


@dataclass(frozen=True)
class Device:
    """One ggml device. Memory is what its backend reports now; a CPU's is the host's."""

    name: str  # ggml's own, as `LoadOptions.devices` takes it: "CPU", "CUDA0", "Vulkan0"
    description: str
    type: DeviceType
    backend: str
    memory_free_bytes: int
    memory_total_bytes: int
    index: int  # in ggml's registry

    @property
    def offloads(self) -> bool:
        """Whether layers can be placed on it."""
        return self.type in ("gpu", "igpu")


@dataclass(frozen=True)
class BuildInfo:
    """The native library behind llama-cpp-python."""

    binding_version: str
    llama_version: str
    ggml_version: str
    commit: str
    system_info: str  # llama_print_system_info, as llama.cpp's programs print it
    cpu_features: tuple[str, ...]  # "AVX2", "AVX512_BF16", ...
    backends: tuple[str, ...]
    devices: tuple[Device, ...]
    supports_gpu_offload: bool
    supports_mmap: bool
    supports_mlock: bool
    supports_rpc: bool

    @property
    def gpu_devices(self) -> tuple[Device, ...]:
        return tuple(device for device in self.devices if device.offloads)


def build_info() -> BuildInfo:
    """Ask the library. The first call loads it (about 0.3 s) and initialises GPU drivers."""
    from importlib.metadata import version

    llama = native.lib()
    system_info = _text(llama.llama_print_system_info())
    features = [
        name.rpartition(":")[2].strip()
        for name, _, value in (part.partition("=") for part in system_info.split("|"))
        if value.strip() == "1"
    ]
    return BuildInfo(
        binding_version=version("llama-cpp-python"),
        llama_version=_text(llama.llama_version()),
        ggml_version=_text(native.ggml("ggml_version", ctypes.c_char_p)()),
        commit=_text(native.ggml("ggml_commit", ctypes.c_char_p)()),
        system_info=system_info,
        cpu_features=tuple(dict.fromkeys(features)),
        backends=backends(),
        devices=devices(),
        supports_gpu_offload=bool(llama.llama_supports_gpu_offload()),
        supports_mmap=bool(llama.llama_supports_mmap()),
        supports_mlock=bool(llama.llama_supports_mlock()),
        supports_rpc=bool(llama.llama_supports_rpc()),
    )


def backends() -> tuple[str, ...]:
    """The names of the backends that this build carries: ("CPU",), ("CUDA", "CPU"), ..."""
    count = native.ggml("ggml_backend_reg_count", ctypes.c_size_t)()
    get = native.ggml("ggml_backend_reg_get", ctypes.c_void_p, ctypes.c_size_t)
    name = native.ggml("ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)
    return tuple(_text(name(get(i))) for i in range(count))


def devices() -> tuple[Device, ...]:
    """Every device of every backend, in ggml's order, with its memory right now; those of workers
    (the setting `rpc`) among them. Raises what connecting to a worker raises."""
    rpc.ensure()
    count = native.ggml("ggml_backend_dev_count", ctypes.c_size_t)()
    return tuple(_device(i) for i in range(count))


def device_handle(index: int) -> int:
    """The ggml_backend_dev_t of `Device.index`, for `llama_model_params.devices`."""
    get = native.ggml("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    return int(get(index) or 0)


def _device(index: int) -> Device:
    handle = device_handle(index)
    one = ctypes.c_void_p
    text = ctypes.c_char_p
    size_p = ctypes.POINTER(ctypes.c_size_t)
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    name = _text(native.ggml("ggml_backend_dev_name", text, one)(handle))
    if (last := rpc.memory_of(name)) is not None:
        free.value, total.value = last
    else:
        native.ggml("ggml_backend_dev_memory", None, one, size_p, size_p)(
            handle, ctypes.byref(free), ctypes.byref(total)
        )
        rpc.note_memory(name, free.value, total.value)
    registry = native.ggml("ggml_backend_dev_backend_reg", one, one)(handle)
    return Device(
        name=name,
        description=_text(native.ggml("ggml_backend_dev_description", text, one)(handle)),
        type=_DEVICE_TYPES[native.ggml("ggml_backend_dev_type", ctypes.c_int, one)(handle)],
        backend=_text(native.ggml("ggml_backend_reg_name", text, one)(registry)),
        memory_free_bytes=free.value,
        memory_total_bytes=total.value,
        index=index,
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace").strip()
