"""GGUF models merged into a GGUF."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.engine.ftypes import FTYPES, Ftype, ftype
from localllm.errors import UsageProblem
from localllm.library.derive import register_derived, require_room
from localllm.library.lineage import lineage_metadata
from localllm.library.merging.applying import ggml_type, row_type_of
from localllm.library.merging.combining import Combiner
from localllm.library.merging.compat import check_gguf
from localllm.library.merging.families import gguf_place, hf_names
from localllm.library.merging.ggufout import GGUFOut
from localllm.library.merging.importance import Importance, read_importance
from localllm.library.merging.jobs import Job, Layered, plan_jobs
from localllm.library.merging.landing import check_loads
from localllm.library.merging.lora import EMBEDDING, OUTPUT
from localllm.library.merging.models import ModelsMerge, TypeSum
from localllm.library.merging.pipeline import Workers
from localllm.library.merging.stacking import check_stackable, layer_arrays
from localllm.library.merging.survival import Survival, Tally
from localllm.library.merging.tensors import GGUFTensors
from localllm.library.merging.types import TypePlan, plan_types, recipe_named
from localllm.registry import Lineage, Model

if TYPE_CHECKING:
    from localllm.formats.gguf.rewrite import NewHeader

_WIDTHS = {"F32": 3, "BF16": 2, "F16": 1}
_COPIES_FILE_TYPE = "general.file_type"


class GGUFForm:
    """See `models.Form`. Opens every model and checks them against each other."""

    format = "gguf"

    def __init__(self, merge: ModelsMerge) -> None:
        self.spec, self.models, self.request = merge.spec, merge.models, merge.request
        self.registry, self.progress = merge.registry, merge.progress
        self.sources: dict[str, GGUFTensors] = {}
        self._parts: list[Path] = []
        self._made: list[tuple[Path, str]] = []
        try:
            for name, model in self.models.items():
                self.sources[name] = GGUFTensors([f.path for f in model.weights], model.name)
            check_gguf(list(self.sources.values()), merge.note)
            self._plan(merge.note)
        except BaseException:
            self.close()
            raise

    def _plan(self, note: Callable[[str], None]) -> None:
        layered = {name: _layered(source) for name, source in self.sources.items()}
        self.planned = plan_jobs(self.spec, layered, _usable)
        self.primary = self.sources[self.spec.primary]
        self.stacked = self.planned.layers != tuple(
            (name, i) for i, (name, _) in enumerate(self.planned.layers)
        ) or len(self.planned.layers) != layered_depth(self.primary)
        if self.stacked:
            check_stackable(self.primary.model, note)
        self.copies = self.spec.method == "passthrough" and not self._said
        recipe = self._recipe()
        self.type = recipe.name
        self.importance: Importance | None = None
        if self.request.imatrix is not None:
            if self.stacked:
                raise UsageProblem("an importance matrix says nothing of stacked layers")
            self.importance = read_importance(self.request.imatrix, self.primary.model)
        self.plan = self._types(ftype("F16") if self.copies else recipe)
        if self.copies:
            self.plan = replace(self.plan, recipe=recipe)

    @property
    def _said(self) -> str | None:
        return self.request.type or self.spec.dtype

    def _recipe(self) -> Ftype:
        """What was asked for, else the widest float type among the models, at least F16; layers
        that are only stacked keep their own."""
        if self._said is not None:
            return recipe_named(self._said)
        own = self.primary.model.file_type
        if self.copies and own is not None and own.name in {one.name for one in FTYPES}:
            return ftype(own.name)
        stored = [s.model.file_type.name for s in self.sources.values() if s.model.file_type]
        floats = [name for name in stored if name in _WIDTHS]
        return ftype(max(floats, key=lambda name: _WIDTHS[name], default="F16"))

    def _types(self, recipe: Ftype) -> TypePlan:
        """llama.cpp's own choice, from a stand-in of the result without weights."""
        from localllm.engine.quantize.quantize import Quantizer
        from localllm.formats.gguf import parse_header

        wide = {job.name: self._wide(job) for job in self.planned.jobs}
        head = self._header(wide, ftype("F32"), None)
        with (
            tempfile.TemporaryDirectory(prefix="localllm-merge-") as folder,
            Quantizer() as quantizer,
        ):
            path = Path(folder) / "plan.gguf"
            parse_header(head.raw, head.file_bytes, name="plan").write_sparse(path)
            return plan_types(path, recipe, quantizer, weighted=self.importance is not None)

    def _as_stored(self, job: Job) -> bool:
        """Whether a tensor's bytes go over as they are."""
        return job.constant or (self.copies and job.recipe.scale is None)

    def _wide(self, job: Job) -> str:
        """The type that a tensor is computed in."""
        source = self.sources[job.inputs[0].model]
        stored = source.layout(job.inputs[0].tensor).type_name
        return stored if self._as_stored(job) else "F32"

    def _header(
        self, types: Mapping[str, str], recipe: Ftype, lineage: Lineage | None
    ) -> NewHeader:
        from localllm.formats.gguf.rewrite import NewTensor, new_header

        base = self.primary.model
        tensors = [
            NewTensor(job.name, self._shape(job), ggml_type(types[job.name]))
            for job in self.planned.jobs
        ]
        changes: dict[str, int | str] = {_COPIES_FILE_TYPE: recipe.number}
        if "general.quantization_version" not in base.metadata:
            changes["general.quantization_version"] = 2  # GGML_QNT_VERSION
        arrays: Mapping[str, bytes] = {}
        if self.stacked:
            changes[base.arch_key("block_count")] = len(self.planned.layers)
            arrays = layer_arrays(self.sources, self.primary, self.planned.layers)
        if lineage is not None:
            changes |= lineage_metadata(lineage, base)
        return new_header(base.shards[0], tensors, set=changes, raw_arrays=arrays)

    def _shape(self, job: Job) -> tuple[int, ...]:
        own = job.inputs[0]
        return self.sources[own.model].layout(own.tensor).shape

    def _final(self) -> dict[str, str]:
        """The type of each tensor: the plan's, or its own."""
        return {
            job.name: self._wide(job) if self._as_stored(job) else self.plan.types[job.name]
            for job in self.planned.jobs
        }

    # --- models.Form --------------------------------------------------------------------

    def sizes(self, lineage: Lineage | None) -> int:
        return self._header(self._final(), self.plan.recipe, lineage).file_bytes

    def types(self) -> tuple[TypeSum, ...]:
        sums: dict[str, list[int]] = {}
        for tensor in self._header(self._final(), self.plan.recipe, None).tensors:
            row = sums.setdefault(tensor.type.name, [0, 0])
            row[0] += 1
            row[1] += tensor.size_bytes
        ordered = sorted(sums.items(), key=lambda item: -item[1][1])
        return tuple(TypeSum(name, n, size) for name, (n, size) in ordered)

    def write(self, lineage: Lineage, key: str, workers: Workers) -> Survival | None:
        types = self._final()
        header = self._header(types, self.plan.recipe, lineage)
        part = self.registry.partial(key, "merge")
        self._parts = [part]
        self.discard()  # what a killed process left
        require_room(part.parent, header.file_bytes)
        self._parts = [part]
        whole = Tally()
        combiner = Combiner(self.sources, workers)
        label = f"merge {self.spec.method} {self.type}"
        with self.progress.bytes(label, header.file_bytes) as advance, GGUFOut(
            part, header
        ) as file:  # fmt: skip
            for job in self.planned.jobs:
                if self._as_stored(job):
                    combiner.copy(job, self.sources[job.inputs[0].model], file, advance)
                    continue
                kind = row_type_of(types[job.name])
                whole.add(combiner.merge(job, kind, file, advance, self.importance))
        self._made = [(part, file.sha256)]
        if self.stacked:
            check_loads(part, "the result")
        return whole.result() if whole.change else None

    def register(self, name: str, lineage: Lineage) -> Model:
        parent = self.models[self.spec.primary]
        return register_derived(self.registry, parent, self._made, name, lineage)

    def inputs(self) -> Mapping[str, str]:
        return {} if self.importance is None else {"imatrix": self.importance.sha256}

    def llama_commit(self) -> str:
        return self.plan.llama_commit

    def discard(self) -> None:
        for path in self._parts:
            path.unlink(missing_ok=True)
        self._parts = []

    def close(self) -> None:
        for source in self.sources.values():
            source.close()


def layered_depth(source: GGUFTensors) -> int:
    """How many layers a model has. Raises UsageProblem where it does not say."""
    n = source.model.arch_u32("block_count") if source.model.architecture else None
    if not n:
        raise UsageProblem(f"{source.name} does not say how many layers it has")
    return n


def _layered(source: GGUFTensors) -> Layered:
    n = layered_depth(source)
    return Layered(
        source=source,
        n_layers=n,
        places={name: gguf_place(name) for name in source.names()},
        aliases=hf_names(source.model.architecture, n),
        tied={OUTPUT: EMBEDDING},
    )


def _usable(model: Layered, tensor: str) -> bool:
    from localllm.engine.ggml_types import row_types

    return model.source.layout(tensor).type_name.lower() in row_types()
