"""From a path and LoadOptions to llama.cpp's model handle, with every refusal made plain."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from localllm.engine import native
from localllm.engine.build import device_handle, devices
from localllm.engine.calls import AbortFlag, GaveUp, interruptible
from localllm.engine.options import SPLIT_MODES, LoadOptions
from localllm.errors import DamagedFile, EngineError, FileGone, UsageProblem

Advance = Callable[[int], None]

_SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")

# What llama.cpp says of bytes that are not what a GGUF file should hold.
_DAMAGE = re.compile(
    r"invalid magic|failed to read|corrupted|incomplete|not within (the )?file|out of bounds"
    r"|beyond the end|duplicated|duplicate|invalid (tensor|key|type|data|offset|split|GGUF)"
    r"|bad (alignment|offset|tensor|type)|has invalid|wrong (type|array length|number of tensors)"
    r"|exceeds max|is not a power of 2|unexpectedly reached end|file data overflow|negative"
    r"|too many dimensions|failed to load GGUF split|tensors expected but|not .* byte aligned"
    r"|failed to seek|total size|truncated",
    re.IGNORECASE,
)


def shards_of(path: Path) -> tuple[Path, ...]:
    """All files of the model that `path` belongs to, in order; (path,) if it is not split."""
    match = _SHARD.match(path.name)
    if match is None:
        return (path,)
    stem, count = match["stem"], int(match["count"])
    return tuple(path.with_name(f"{stem}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1))


def load_handle(path: Path, options: LoadOptions, advance: Advance | None) -> int:
    """Load and return the llama_model pointer; the caller owns and frees it.

    `advance` gets the bytes newly read, of the shards' sizes in all; it is called on the
    loading thread, and an exception from it aborts the load and is raised here.
    Raises FileGone, DamagedFile, EngineError, UsageProblem.
    """
    llama = native.lib()
    files = shards_of(path)
    total = sum(_size(file) for file in files)
    params, keep = _params(llama, options)
    flag, meter = AbortFlag(), _Meter(total, advance)

    @llama.llama_progress_callback  # type: ignore[untyped-decorator]
    def on_progress(fraction: float, _user_data: int | None) -> bool:
        meter.step(fraction)
        return meter.error is None and not flag.raised

    params.progress_callback = on_progress
    keep.append(on_progress)
    encoded = os.fsencode(files[0])
    try:
        with native.capture() as log:
            handle: int | None = interruptible(
                lambda: llama.llama_model_load_from_file(encoded, params),
                abort=flag.raise_,
                discard=lambda model: llama.llama_model_free(model) if model else None,
                expendable=True,
            )
    except GaveUp as error:
        raise native.failure(f"llama.cpp could not load {path.name}", error.why) from None
    if meter.error is not None:
        if handle:
            llama.llama_model_free(handle)
        raise meter.error
    if not handle:
        raise refusal(path, log)
    return handle


def refusal(path: Path, log: native.Capture, action: str = "load") -> EngineError | DamagedFile:
    """The error for a file that llama.cpp refused: damaged content or anything else."""
    why = native.reason(log)
    if is_damage(why):
        return DamagedFile(f"{path.name} is damaged: {why}", "localllm verify MODEL")
    failure = native.failure(f"llama.cpp could not {action} {path.name}", log)
    if "unknown model architecture" in why:
        failure.hint = "pip install --upgrade llama-cpp-python"
    return failure


def is_damage(reason: str) -> bool:
    """Whether llama.cpp's words mean that a file's bytes are not what they should be."""
    return _DAMAGE.search(reason) is not None


class _Meter:
    """Turns llama.cpp's fraction into bytes newly done, and keeps what `advance` raises."""

    def __init__(self, total: int, advance: Advance | None) -> None:
        self.total, self.advance, self.done = total, advance, 0
        self.error: BaseException | None = None

    def step(self, fraction: float) -> None:
        now = int(self.total * min(max(fraction, 0.0), 1.0))
        if self.advance is None or now <= self.done:
            return
        new, self.done = now - self.done, now
        try:
            self.advance(new)
        except BaseException as error:  # noqa: BLE001 - C cannot carry it; raised after the load
            self.error = error


def _size(file: Path) -> int:
    try:
        if file.is_dir():
            raise EngineError(f"{file} is a folder, not a GGUF file")
        return file.stat().st_size
    except FileNotFoundError:
        raise FileGone(f"there is no file {file}") from None
    except OSError as error:
        raise EngineError(f"cannot read {file}: {error.strerror}") from None


def _params(llama: Any, options: LoadOptions) -> tuple[Any, list[Any]]:
    """llama_model_params, and the objects that it points to and that must outlive the call."""
    params = llama.llama_model_default_params()
    params.n_gpu_layers = options.n_gpu_layers
    params.split_mode = SPLIT_MODES[options.split_mode]
    params.main_gpu = options.main_gpu
    # no_alloc is a dry run: mapping or locking the file would be real.
    mmap, mlock = options.mmap and not options.no_alloc, options.mlock and not options.no_alloc
    params.load_mode = {
        (False, False): llama.LLAMA_LOAD_MODE_NONE,
        (True, False): llama.LLAMA_LOAD_MODE_AUTO,  # mmap where the devices take it
        (False, True): llama.LLAMA_LOAD_MODE_MLOCK,
        (True, True): llama.LLAMA_LOAD_MODE_MMAP_MLOCK,
    }[mmap, mlock]
    params.vocab_only = options.vocab_only
    params.check_tensors = options.check_tensors
    params.no_alloc = options.no_alloc
    keep: list[Any] = []
    if options.tensor_split:
        split = _tensor_split(llama, options.tensor_split)
        params.tensor_split = split
        keep.append(split)
    if options.n_cpu_moe > 0:
        placed = _experts_on_cpu(llama, options.n_cpu_moe)
        params.tensor_buft_overrides = ctypes.cast(placed, ctypes.c_void_p)
        keep.append(placed)
    if options.devices is not None:
        chosen = _devices(options.devices)
        params.devices = ctypes.cast(chosen, ctypes.c_void_p)
        keep.append(chosen)
    if options.overrides:
        overrides = kv_overrides(llama, options.overrides)
        params.kv_overrides = overrides
        keep.append(overrides)
    return params, keep


def _tensor_split(llama: Any, shares: tuple[float, ...]) -> Any:
    limit = llama.llama_max_devices()
    if len(shares) > limit:
        raise UsageProblem(f"tensor_split names {len(shares)} devices, llama.cpp takes {limit}")
    return (ctypes.c_float * limit)(*shares)


def _experts_on_cpu(llama: Any, n_layers: int) -> Any:
    """llama_model_tensor_buft_override[], ended by a NULL pattern: the expert weights of layers
    0 to n_layers - 1 (llm_ffn_block_regex and LLM_FFN_EXPS_REGEX in llama.cpp's common.h)."""
    limit = int(llama.llama_max_tensor_buft_overrides())
    if n_layers >= limit:
        raise UsageProblem(f"n_cpu_moe is {n_layers}; llama.cpp takes at most {limit - 1}")
    on_cpu = native.ggml("ggml_backend_cpu_buffer_type", ctypes.c_void_p)()
    array = (_BufferOverride * (n_layers + 1))()
    for i in range(n_layers):
        pattern = rf"blk\.{i}\.ffn_(up|down|gate|gate_up)_(ch|)exps"
        array[i] = _BufferOverride(pattern.encode(), on_cpu)
    return array


class _BufferOverride(ctypes.Structure):
    """llama_model_tensor_buft_override; the binding has no fields for it."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def _devices(names: tuple[str, ...]) -> Any:
    """A NULL-terminated ggml_backend_dev_t array."""
    known = {device.name.lower(): device for device in devices()}
    for name in names:
        if name.lower() not in known:
            there = ", ".join(device.name for device in known.values())
            raise UsageProblem(f"this build of llama.cpp has no device {name!r} (it has {there})")
    handles = [device_handle(known[name.lower()].index) for name in names]
    return (ctypes.c_void_p * (len(handles) + 1))(*handles, None)


def kv_overrides(llama: Any, values: Mapping[str, int | float | bool | str]) -> Any:
    """llama_model_kv_override[], ended by an empty key."""
    array = (llama.llama_model_kv_override * (len(values) + 1))()
    for slot, (key, value) in zip(array, values.items(), strict=False):
        if len(key.encode()) > 127 or (isinstance(value, str) and len(value.encode()) > 127):
            raise UsageProblem(f"metadata override {key!r} is longer than 127 bytes")
        slot.key = key.encode()
        if isinstance(value, bool):  # before int: bool is one
            slot.tag, slot.value.val_bool = llama.LLAMA_KV_OVERRIDE_TYPE_BOOL, value
        elif isinstance(value, int):
            slot.tag, slot.value.val_i64 = llama.LLAMA_KV_OVERRIDE_TYPE_INT, value
        elif isinstance(value, float):
            slot.tag, slot.value.val_f64 = llama.LLAMA_KV_OVERRIDE_TYPE_FLOAT, value
        else:
            slot.tag, slot.value.val_str = llama.LLAMA_KV_OVERRIDE_TYPE_STR, value.encode()
    return array
