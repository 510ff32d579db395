"""A model's weights back into a GGUF, with all that the source says of itself byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from localllm.errors import EngineError, UsageProblem
from localllm.finetune.model.build import bare, tensor_of
from localllm.finetune.model.loaded import LoadedModel
from localllm.finetune.model.quantized import FrozenRows
from localllm.finetune.model.stored import Stored, Weights, gguf_weights
from localllm.finetune.training.whole import whole
from localllm.formats import read_model
from localllm.formats.gguf import TensorInfo
from localllm.formats.hf import Slot
from localllm.formats.hf.write import TensorOut, Value, tensor_type, write_gguf

FloatType = Literal["F32", "F16", "BF16"]
FILE_TYPES: Mapping[str, int] = {"F32": 0, "F16": 1, "BF16": 32}  # enum llama_ftype
KINDS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
Advance = Callable[[int], None]


def save_gguf(
    loaded: LoadedModel,
    out: Path,
    *,
    type: FloatType = "F16",
    source: Path | None = None,
    metadata: Mapping[str, Value] | None = None,
    advance: Advance = lambda n_bytes: None,
) -> None:
    """Write `loaded.module`'s weights as a GGUF, matrices in `type`, vectors in F32.

    Metadata and vocabulary are the source's, byte for byte but for `general.file_type` and
    what `metadata` adds. A tensor that was not changed, and whose type stays, keeps its bytes.
    `source` is the GGUF that the model is from (of a model loaded from safetensors: its
    converted GGUF). One tensor is in memory at a time. `out` is a temporary name of the
    caller's; on failure it is gone.

    Raises FileGone, DamagedFile, UsageProblem, OSError, and EngineError for weights that are
    not finite or too large for F16.
    """
    if type not in KINDS:
        raise UsageProblem(f"{type!r} is no type of trained weights", "F32, F16 or BF16")
    source = source or loaded.source
    if source.is_dir():
        raise UsageProblem(
            f"{source.name} has no vocabulary in GGUF's form", "localllm convert, then --source"
        )
    if out.exists() and out.samefile(source):
        raise UsageProblem(f"{source} cannot be overwritten by what comes from it")
    file = read_model(source)
    if file.architecture != loaded.arch:
        raise UsageProblem(f"{source.name} is a {file.architecture}, not a {loaded.arch}")
    weights, slots = gguf_weights(file, source), {slot.gguf: slot for slot in loaded.slots}
    if missing := slots.keys() - file.tensors.keys():
        raise UsageProblem(f"{source.name} has no tensor {min(missing)}: it is another model")
    tensors = [
        _tensor(loaded, slots.get(name), info, weights, type) for name, info in file.tensors.items()
    ]
    replaced = {"general.file_type": FILE_TYPES[type], **(metadata or {})}
    write_gguf(out, file.shards[0], tensors, set=replaced, advance=advance)


def help_save(loaded: LoadedModel) -> None:
    """Of a sharded module: what the other processes do while one saves it. In the order of the
    file, as there."""
    slots = {slot.gguf: slot for slot in loaded.slots}
    for name in read_model(loaded.source).tensors:
        if name in slots:
            current(loaded, slots[name])


def _tensor(
    loaded: LoadedModel, slot: Slot | None, info: TensorInfo, weights: Weights, type: FloatType
) -> TensorOut:
    """One tensor of the source, in what it becomes. What transformers does not have (a rope's
    factors) stays as it is."""
    stored = weights[info.name]
    wanted = type if len(stored.shape) > 1 else "F32"
    if slot is None:
        return TensorOut(info.name, stored.shape, info.type, lambda: [stored.data])
    if stored.shape != slot.shape:
        raise UsageProblem(f"{info.name} has another shape in the source: {stored.shape}")
    return TensorOut(
        info.name, stored.shape, tensor_type(wanted), lambda: _chunks(loaded, slot, stored, wanted)
    )


def _chunks(
    loaded: LoadedModel, slot: Slot, stored: Stored, wanted: str
) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    same_type = stored.type.name.upper() == wanted
    now = current(loaded, slot)
    if now is None or torch.equal(now, tensor_of(stored, slot.layout, now.dtype)):
        if same_type:
            yield stored.data
            return
        found = torch.from_numpy(stored.numbers())  # in the GGUF's own layout already
    else:
        found = torch.from_numpy(slot.layout.to_gguf(now.float().numpy()))
    yield as_bytes(found, wanted, stored.name)


def current(loaded: LoadedModel, slot: Slot) -> torch.Tensor | None:
    """The module's numbers for a slot, on the CPU; None where they are the file's own bytes. Of
    a sharded module all processes must ask."""
    layer = bare(loaded.module.get_submodule(slot.module))
    leaf = slot.hf.rpartition(".")[2]
    if leaf == "weight" and isinstance(getattr(layer, "rows", None), FrozenRows):
        return None
    return whole(layer.get_parameter(leaf))


def as_bytes(
    numbers: torch.Tensor, kind: str, name: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Numbers as a type's bytes, rounded to nearest even as ggml rounds. Raises EngineError."""
    held = numbers.to(KINDS[kind]).contiguous()
    if not torch.isfinite(held).all():
        if torch.isfinite(numbers).all():
            raise EngineError(f"{name} has numbers too large for {kind}", "BF16 holds them")
        raise EngineError(f"{name} has numbers that are not finite: the training went wrong")
    return held.reshape(-1).view(torch.uint8).numpy()
