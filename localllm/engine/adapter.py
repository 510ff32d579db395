"""LoRA adapters: loaded beside a model, attached to its contexts with a scale."""

from __future__ import annotations

import ctypes
import itertools
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localllm.engine import native
from localllm.engine.calls import GaveUp, interruptible
from localllm.engine.context import Context
from localllm.engine.handle import NativeObject
from localllm.engine.load import refusal, shards_of
from localllm.engine.model import Model, read_optional
from localllm.engine.named import has_tensor
from localllm.errors import EngineError, FileGone

_numbers = itertools.count()


class LoraAdapter(NativeObject):
    """A LoRA in GGUF, its tensors placed beside the model's.

    Raises FileGone, DamagedFile, and EngineError if it was made for another model.
    """

    kind = "adapter"

    def __init__(self, model: Model, path: Path) -> None:
        if not path.is_file():
            raise FileGone(f"there is no file {path}")
        _refuse_tied(model, path)
        llama = native.lib()
        source = model.handle
        try:
            with native.capture() as log:
                pointer = interruptible(
                    lambda: llama.llama_adapter_lora_init(source, os.fsencode(path)),
                    discard=lambda made: llama.llama_adapter_lora_free(made) if made else None,
                    expendable=True,
                )
        except GaveUp as error:
            what = f"llama.cpp could not load the adapter {path.name}"
            raise native.failure(what, error.why) from None
        if not pointer:
            raise refusal(path, log, "load the adapter")
        # Freeing the model frees its adapters: this must come first, and not after.
        super().__init__(
            ctypes.cast(pointer, ctypes.c_void_p).value or 0,
            lambda handle: llama.llama_adapter_lora_free(_pointer(handle)),
            [model],
        )
        model.depend(self)
        self.model = model
        self.path = path
        self.number = next(_numbers)  # no other has it, as another may have its address later
        self._contexts: weakref.WeakSet[Context] = weakref.WeakSet()

    def metadata(self) -> Mapping[str, str]:
        """The adapter file's scalar and string keys, sorted."""
        llama, handle = native.lib(), _pointer(self.handle)
        pairs = []
        for i in range(llama.llama_adapter_meta_count(handle)):
            key = read_optional(llama.llama_adapter_meta_key_by_index, handle, i) or ""
            value = read_optional(llama.llama_adapter_meta_val_str_by_index, handle, i) or ""
            pairs.append((key, value))
        return dict(sorted(pairs))

    def close(self) -> None:
        """Detach everywhere, then free."""
        for context in list(self._contexts):
            if not context.closed:
                attach(context, [one for one in attached(context) if one.adapter is not self])
        super().close()

    def remember(self, context: Context) -> None:
        self._contexts.add(context)


@dataclass(frozen=True)
class Attached:
    """An adapter at work in a context. Scale 1 is as it was trained, 0 is off."""

    adapter: LoraAdapter
    scale: float = 1.0


_attached: weakref.WeakKeyDictionary[Context, tuple[Attached, ...]] = weakref.WeakKeyDictionary()


def attached(context: Context) -> tuple[Attached, ...]:
    """The adapters at work in `context`, in order."""
    return _attached.get(context, ())


def attach(context: Context, adapters: Sequence[Attached | LoraAdapter]) -> None:
    """Make exactly `adapters` work in `context`; [] detaches all. Takes milliseconds.

    The context's memory is cleared: it was computed with other weights.
    """
    switch(context, [one if isinstance(one, Attached) else Attached(one) for one in adapters])
    context.clear()


def attach_files(context: Context, wanted: Sequence[tuple[Path, float]]) -> None:
    """Load LoRAs and make exactly them work in `context`, each with its scale. They are freed with
    the model. Raises what LoraAdapter raises."""
    attach(context, [Attached(LoraAdapter(context.model, path), scale) for path, scale in wanted])


def switch(context: Context, wanted: Sequence[Attached]) -> None:
    """`attach` for who keeps apart which sequences were computed with which adapters: the
    memory stays."""
    for one in wanted:
        if one.adapter.model is not context.model:
            raise EngineError(f"{one.adapter.path.name} was loaded for another model")
    llama = native.lib()
    n = len(wanted)
    handles = (ctypes.POINTER(ctypes.c_void_p) * n)(
        *(_pointer(one.adapter.handle) for one in wanted)
    )
    scales = (ctypes.c_float * n)(*(one.scale for one in wanted))
    with native.capture() as log:
        failed = llama.llama_set_adapters_lora(context.handle, handles, n, scales)
    if failed:
        raise native.failure("llama.cpp could not attach the adapters", log)
    for one in wanted:
        one.adapter.remember(context)
    _attached[context] = tuple(wanted)


def _pointer(handle: int) -> Any:
    """As the binding types it."""
    return ctypes.cast(ctypes.c_void_p(handle), ctypes.POINTER(ctypes.c_void_p))


def _refuse_tied(model: Model, path: Path) -> None:
    """An adapter of an embedding that is the output layer too: llama.cpp loads it, and ends the
    process at the first token, since it multiplies both the same way."""
    if not has_tensor(path, "token_embd.weight.lora_a"):
        return
    if not any(has_tensor(file, "output.weight") for file in shards_of(model.path)):
        raise EngineError(
            f"{path.name} changes the embedding, which is also {model.path.name}'s output layer: "
            "llama.cpp cannot run it",
            "localllm merge MODEL --lora ADAPTER, which puts it into the weights",
        )
