"""Quantize a GGUF model with llama.cpp, in a process of its own.

llama_model_quantize cannot be stopped, and asserts on some input end the process it runs
in. In a child (`child`), Ctrl-C is a kill and a crash is one line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from localllm.closing import Closing
from localllm.engine.ftypes import Ftype, ftype, tensor_type
from localllm.engine.load import shards_of
from localllm.engine.quantize.options import (
    Fallback,
    ImportanceFile,
    ImportanceVector,
    QuantizeOptions,
    QuantizeReport,
    TensorPlan,
)
from localllm.engine.quantize.process import QuantizeProcess, failure
from localllm.errors import FileGone, UsageProblem

__all__ = [
    "Fallback",
    "ImportanceFile",
    "ImportanceVector",
    "OnTensor",
    "QuantizeOptions",
    "QuantizeReport",
    "Quantizer",
    "TensorPlan",
    "plan_quantize",
    "quantize",
]

OnTensor = Callable[[TensorPlan], None]


def plan_quantize(source: Path, options: QuantizeOptions) -> QuantizeReport:
    """Every tensor's type and size as `quantize` would make it; writes nothing. Seconds."""
    with Quantizer() as quantizer:
        return quantizer.plan(source, options)


def quantize(
    source: Path, output: Path, options: QuantizeOptions, on_tensor: OnTensor | None = None
) -> QuantizeReport:
    """`Quantizer.quantize` with a process for this once."""
    with Quantizer() as quantizer:
        return quantizer.quantize(source, output, options, on_tensor)


class Quantizer(Closing):
    """The process that plans and quantizes, one request after another. It starts at once, so
    that it is ready when the first request comes; killed when this is closed.
    """

    def __init__(self) -> None:
        self._child = QuantizeProcess()

    def plan(self, source: Path, options: QuantizeOptions) -> QuantizeReport:
        """Every tensor's type and size as `quantize` would make it; writes nothing."""
        return self._run(source, None, options, None)

    def quantize(
        self,
        source: Path,
        output: Path,
        options: QuantizeOptions,
        on_tensor: OnTensor | None = None,
    ) -> QuantizeReport:
        """Write `source` in another precision to `output`.

        `output` is a temporary path of the caller's: it is written in place, and removed when
        this fails or is interrupted. With `keep_split` it is the stem that llama.cpp appends
        "-00001-of-0000N.gguf" to. `on_tensor` comes after each tensor, in file order.
        Raises FileGone, DamagedFile, DiskFull, UsageProblem (unknown type, recipe that needs
        an importance matrix, source already quantized), EngineError.
        """
        if not output.parent.is_dir():
            raise FileGone(f"there is no folder {output.parent}")
        if output.exists() and any(output.samefile(file) for file in shards_of(source)):
            raise UsageProblem(f"{output} is the source itself")
        try:
            return self._run(source, output, options, on_tensor)
        except BaseException:
            self.close()  # it may be writing still
            for file in _outputs(output, options.keep_split):
                if file.is_file():  # never a device that someone named
                    file.unlink()
            raise

    def _run(
        self,
        source: Path,
        output: Path | None,
        options: QuantizeOptions,
        on_tensor: OnTensor | None,
    ) -> QuantizeReport:
        recipe = _check(source, options)
        begun = time.perf_counter()
        heard = _Heard(on_tensor)
        for event in self._child.events(_request(source, output, options, recipe)):
            if event["event"] == "failed":
                raise failure(source, output, recipe, event["reason"], event["damaged"])
            heard.take(event)
        return QuantizeReport(
            source=source,
            outputs=tuple(_outputs(output, options.keep_split)) if output else (),
            ftype=recipe.name,
            tensors=tuple(heard.tensors),
            fallbacks=tuple(heard.fallbacks),
            before_bytes=sum(plan.before_bytes for plan in heard.tensors),
            after_bytes=sum(plan.after_bytes for plan in heard.tensors),
            n_params=sum(prod(plan.shape) for plan in heard.tensors),
            unweighted=tuple(heard.unweighted),
            needs_imatrix=heard.needs_imatrix,
            llama_commit=heard.commit,
            elapsed_s=time.perf_counter() - begun,
        )

    def close(self) -> None:
        self._child.close()


class _Heard:
    """What the process has reported of one request."""

    def __init__(self, on_tensor: OnTensor | None) -> None:
        self.on_tensor = on_tensor
        self.tensors: list[TensorPlan] = []
        self.fallbacks: list[Fallback] = []
        self.unweighted: list[str] = []
        self.needs_imatrix = False
        self.commit = "unknown"

    def take(self, event: dict[str, Any]) -> None:
        if event["event"] == "tensor":
            plan = TensorPlan(**event["tensor"] | {"shape": tuple(event["tensor"]["shape"])})
            self.tensors.append(plan)
            if self.on_tensor is not None:
                self.on_tensor(plan)
        elif event["event"] == "fallback":
            self.fallbacks.append(Fallback(**event["fallback"]))
        elif event["event"] == "unweighted":
            self.unweighted.append(event["tensor"])
        elif event["event"] == "commit":
            self.commit = event["commit"]
        elif event["event"] == "needs_imatrix":
            self.needs_imatrix = True


def _check(source: Path, options: QuantizeOptions) -> Ftype:
    recipe = ftype(options.ftype)
    named = [
        options.output_type,
        options.token_embedding_type,
        *(t for _, t in options.tensor_types),
    ]
    for name in named:
        if name is not None:
            tensor_type(name)
    for file in shards_of(source):
        if not file.is_file():
            raise FileGone(f"there is no file {file}")
    return recipe


def _request(
    source: Path, output: Path | None, options: QuantizeOptions, recipe: Ftype
) -> dict[str, Any]:
    return asdict(options) | {
        "ftype": recipe.number,
        "copies": recipe.copies,
        "source": str(shards_of(source)[0]),
        "output": None if output is None else str(output),
        "importance": None
        if options.importance is None
        else {
            "path": str(options.importance.path),
            "vectors": [(v.tensor, v.offset, v.length) for v in options.importance.vectors],
        },
    }


def _outputs(output: Path, keep_split: bool) -> Sequence[Path]:
    if not keep_split:
        return [output] if output.exists() else []
    return sorted(output.parent.glob(f"{_escaped(output.name)}-?????-of-?????.gguf"))


def _escaped(name: str) -> str:
    """`name` for a glob that matches it literally."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
