"""Safetensors folders merged into a safetensors folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from localllm.engine.build import build_info
from localllm.errors import DamagedFile, UsageProblem
from localllm.library.derive import require_room, same_lineage
from localllm.library.growing import digest_of
from localllm.library.lineage import lineage_text
from localllm.library.merging.applying import row_type_of
from localllm.library.merging.combining import Combiner
from localllm.library.merging.compat import check_folders
from localllm.library.merging.families import hf_place
from localllm.library.merging.jobs import Job, Layered, plan_jobs
from localllm.library.merging.models import ModelsMerge, TypeSum
from localllm.library.merging.pipeline import Workers
from localllm.library.merging.safeout import INDEX, SafeOut, SafeTensorOut, index_of, shards_for
from localllm.library.merging.safetensors import FLOATS, SafeTensors
from localllm.library.merging.survival import Survival, Tally
from localllm.refs import FileRole, ModelRef
from localllm.registry import Arrival, Lineage, Model, Staged

_OUT_TYPES = ("F32", "F16", "BF16")
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_NOT_COPIED = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".py",
               ".index.json", ".md")  # fmt: skip
_LARGEST_COPY = 256 << 20
_CONFIG = "config.json"


class SafetensorsForm:
    """See `models.Form`. Opens every model and checks them against each other."""

    format = "safetensors"

    def __init__(self, merge: ModelsMerge) -> None:
        self.spec, self.models, self.request = merge.spec, merge.models, merge.request
        self.registry, self.progress = merge.registry, merge.progress
        self.sources: dict[str, SafeTensors] = {}
        self._staged: list[Staged] = []
        self._parts: list[Path] = []
        self.kind = self._kind()
        if self.request.imatrix is not None:
            raise UsageProblem(
                "an importance matrix is for quantizing, and safetensors are not quantized",
                "merge first, then localllm quantize NAME TYPE --imatrix",
            )
        try:
            for name, model in self.models.items():
                self.sources[name] = SafeTensors(model.path, model.name)
            check_folders(list(self.sources.values()), merge.note)
            layered = {name: _layered(source) for name, source in self.sources.items()}
            self.planned = plan_jobs(self.spec, layered, _usable)
        except BaseException:
            self.close()
            raise
        self.primary = self.sources[self.spec.primary]
        self.type = self.kind or next(iter(self.primary.model.dtypes), "F32")

    def _kind(self) -> str | None:
        """The type of every tensor, None for each its own. Raises UsageProblem."""
        said = self.request.type or self.spec.dtype
        if said is None or said.upper() in _OUT_TYPES:
            return None if said is None else said.upper()
        raise UsageProblem(
            f"safetensors are written in {', '.join(_OUT_TYPES)}, not {said}",
            "merge first, then localllm quantize NAME TYPE",
        )

    def _dtype(self, job: Job) -> str:
        own = job.inputs[job.reference]
        stored = self.sources[own.model].layout(own.tensor).type_name
        if job.constant:
            return stored
        return self.kind or ("F32" if stored == "F64" else stored)

    def _tensors(self) -> list[SafeTensorOut]:
        found = []
        for job in self.planned.jobs:
            own = job.inputs[0]
            shape = self.sources[own.model].layout(own.tensor).shape
            found.append(SafeTensorOut(job.name, self._dtype(job), shape))
        return found

    # --- models.Form --------------------------------------------------------------------

    def sizes(self, lineage: Lineage | None) -> int:
        shards = shards_for(self._tensors(), _metadata(lineage))
        size = sum(shard.size_bytes for shard in shards)
        if len(shards) > 1:
            size += len(index_of(shards))
        return size + len(self._config()) + sum(p.stat().st_size for p in self._companions())

    def types(self) -> tuple[TypeSum, ...]:
        sums: dict[str, list[int]] = {}
        for tensor in self._tensors():
            row = sums.setdefault(tensor.dtype, [0, 0])
            row[0] += 1
            row[1] += tensor.size_bytes
        ordered = sorted(sums.items(), key=lambda item: -item[1][1])
        return tuple(TypeSum(name, n, size) for name, (n, size) in ordered)

    def write(self, lineage: Lineage, key: str, workers: Workers) -> Survival | None:
        shards = shards_for(self._tensors(), _metadata(lineage))

        def path_of(name: str) -> Path:
            path = self.registry.partial(key, "merge", name)
            path.unlink(missing_ok=True)  # what a killed process left
            self._parts.append(path)
            return path

        require_room(path_of(_CONFIG).parent, self.sizes(lineage))
        whole = Tally()
        combiner = Combiner(self.sources, workers)
        n_bytes = sum(shard.size_bytes for shard in shards)
        label = f"merge {self.spec.method} {self.type}"
        with self.progress.bytes(label, n_bytes) as advance, SafeOut(shards, path_of) as out:
            for job in self.planned.jobs:
                if job.constant:
                    combiner.copy(job, self.sources[job.inputs[0].model], out, advance)
                else:
                    kind = row_type_of(self._dtype(job))
                    whole.add(combiner.merge(job, kind, out, advance))
        self._staged = [
            Staged(path, shard.name, shard.size_bytes, digest, "weights")
            for path, shard, digest in zip(out.paths, shards, out.digests, strict=True)
        ]
        small = {_CONFIG: self._config()} | {p.name: p.read_bytes() for p in self._companions()}
        if len(shards) > 1:
            small[INDEX] = index_of(shards)
        for name, content in small.items():
            self._stage(path_of(name), name, content)
        return whole.result() if whole.change else None

    def register(self, name: str, lineage: Lineage) -> Model:
        ref = ModelRef.parse(name)
        facts = self.models[self.spec.primary]
        arrival = Arrival(
            name=name,
            ref=ref,
            format="safetensors",
            source="local",
            publisher=lineage.operation,
            repo=f"{ref.name}-{ref.variant}" if ref.variant else ref.name,
            variant=ref.variant,
            architecture=facts.architecture,
            file_type=self.type,
            n_params=sum(prod(t.shape) for t in self._tensors()),
            n_ctx_train=facts.n_ctx_train,
            lineage=lineage,
            files=tuple(self._staged),
        )
        return self.registry.add(arrival, lambda known: same_lineage(known.lineage, lineage))

    def inputs(self) -> Mapping[str, str]:
        return {}

    def llama_commit(self) -> str:
        return build_info().commit

    def discard(self) -> None:
        for path in self._parts:
            path.unlink(missing_ok=True)
        self._parts = []

    def close(self) -> None:
        for source in self.sources.values():
            source.close()

    # --- what lies beside the weights -----------------------------------------------------

    def _stage(self, path: Path, name: str, content: bytes) -> None:
        path.write_bytes(content)
        role: FileRole = "tokenizer" if "token" in name or name.startswith("vocab") else "config"
        digest = digest_of(path, lambda n_bytes: None)
        self._staged.append(Staged(path, name, len(content), digest, role))

    def _companions(self) -> list[Path]:
        """Tokenizer, templates and generation settings of the primary model; no weights and no
        code."""
        return [
            path
            for path in sorted(self.primary.folder.iterdir())
            if path.is_file()
            and path.name != _CONFIG
            and not path.name.startswith(".")
            and not path.name.endswith(_NOT_COPIED)
            and path.stat().st_size <= _LARGEST_COPY
        ]

    def _config(self) -> bytes:
        """config.json with the depth and type of the result."""
        config: dict[str, Any] = json.loads(json.dumps(dict(self.primary.model.config)))
        n_before, layers = self.primary.n_layers, self.planned.layers
        for place in (config, config.get("text_config")):
            if not isinstance(place, dict):
                continue
            for key in ("num_hidden_layers", "n_layer", "num_layers"):
                if key in place:
                    place[key] = len(layers)
            for key, value in place.items():
                if isinstance(value, list) and len(value) == n_before and key == "layer_types":
                    place[key] = [self._layer_type(name, i) for name, i in layers]
            for key in ("torch_dtype", "dtype"):
                if key in place and self.kind is not None:
                    place[key] = _DTYPES[self.kind]
        return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()

    def _layer_type(self, name: str, layer: int) -> Any:
        config = self.sources[name].model.config
        inner = config.get("text_config")
        for place in (config, inner if isinstance(inner, dict) else {}):
            kinds = place.get("layer_types")
            if isinstance(kinds, list) and layer < len(kinds):
                return kinds[layer]
        raise DamagedFile(f"{name}: its config.json has no layer_types of layer {layer}")


def _layered(source: SafeTensors) -> Layered:
    places = {name: hf_place(name) for name in source.names()}
    n_layers = source.n_layers
    # a vision part has layers of its own, which are no layers of the language model
    places = {
        name: place
        if place.part != "layer" or _is_text(place.stem, places)
        else replace(place, part="before", stem=name, layer=0, rest="")
        for name, place in places.items()
    }
    embedding = next((n for n in places if n.endswith("embed_tokens.weight")), "")
    return Layered(source, n_layers, places, {}, {"lm_head.weight": embedding})


def _is_text(stem: str, places: Mapping[str, Any]) -> bool:
    stems = {place.stem for place in places.values() if place.part == "layer"}
    return len(stems) == 1 or not any(word in stem for word in ("vision", "visual", "audio"))


def _usable(model: Layered, tensor: str) -> bool:
    layout = model.source.layout(tensor)
    if layout.type_name in FLOATS:
        return True
    if layout.type_name.startswith("F"):  # F8, F4: weights, in a form that has scales elsewhere
        raise UsageProblem(
            f"{model.source.name}: {tensor} is stored as {layout.type_name}, which is not merged",
            "take the model in BF16, F16 or F32",
        )
    return False


def _metadata(lineage: Lineage | None) -> dict[str, str]:
    return {} if lineage is None else {"localllm.lineage": lineage_text(lineage)}
