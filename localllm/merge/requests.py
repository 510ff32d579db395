"""From the words of the command line to requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.errors import DamagedFile, NotFound, UsageProblem
from localllm.library.describe import loose_model
from localllm.library.find import find_model
from localllm.library.imatrix import find_imatrix
from localllm.library.merging.result import AdapterRequest, LossRequest
from localllm.refs import ModelRef
from localllm.registry import Model, Registry


@dataclass(frozen=True)
class Given:
    """What was said beside models and adapters, each word as it was."""

    kind: str | None = None
    name: str | None = None
    imatrix: str | None = None
    keep_others: bool = False
    allow_loss: bool = False
    any_base: bool = False
    texts: tuple[Path, ...] = ()
    chunks: int | None = None
    no_loss: bool = False
    threads: int | None = None

    @property
    def loss(self) -> LossRequest | None:
        if self.no_loss:
            if self.texts:
                raise UsageProblem("--text measures the loss, which --no-loss leaves out")
            return None
        own = LossRequest(self.texts, n_threads=self.threads)
        return own if self.chunks is None else replace(own, n_chunks=self.chunks)


def adapter_request(given: Given, base: Model, registry: Registry) -> AdapterRequest:
    return AdapterRequest(
        type=given.kind,
        name=given.name,
        imatrix=imatrix_of(given.imatrix, base, registry),
        keep_others=given.keep_others,
        allow_loss=given.allow_loss,
        any_base=given.any_base,
        loss=given.loss,
        n_threads=given.threads or 0,
    )


def imatrix_of(given: str | None, model: Model, registry: Registry) -> Path | None:
    """`auto` is the matrix that is kept for the model. Raises NotFound where there is none."""
    if given is None or given == "none":
        return None
    if given != "auto":
        return Path(given).expanduser()
    found = find_imatrix(model, registry)
    if found is None:
        raise NotFound(
            f"no importance matrix is kept for {model.name}", f"localllm imatrix {model.name}"
        )
    return found


def find_adapters(words: Sequence[str], registry: Registry) -> list[tuple[Model, float]]:
    """Each `ADAPTER[:SCALE]`. Raises ModelNotFound, FileGone, DamagedFile."""
    return [_adapter(text, registry) for text in words]


def _adapter(text: str, registry: Registry) -> tuple[Model, float]:
    head, colon, tail = text.rpartition(":")
    scale = _number(tail) if colon else None
    name = text if scale is None else head
    ref = ModelRef.parse(name)
    # a path means that file, which may also be a part of a registered model
    found = find_model(name, registry)
    if ref.scheme == "file" and found.format != "adapter":
        found = loose_model(Path(ref.name).expanduser())
    if found.format != "adapter":
        raise DamagedFile(f"{found.name} is no LoRA adapter but a {found.format} file")
    if found.path.suffix.lower() == ".safetensors" or found.path.is_dir():
        raise DamagedFile(
            f"{found.name} is an adapter in safetensors form; merging takes it in GGUF form",
            f"localllm convert {found.name}",
        )
    return found, 1.0 if scale is None else scale


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
