"""LoRA adapters merged into a GGUF model, natively.

    made = merge_adapters(base, [(adapter, 1.0)], AdapterRequest(type="Q6_K"), registry, progress)
    made.model, made.survival.share, made.loss

The base's metadata goes over byte for byte (its vocabulary and template with it), but for the
file type, the lineage and the keys of a split. `localllm merge --lora` is one client.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.engine.ftypes import Ftype
from localllm.library.derive import (
    existing,
    parent_of,
    register_derived,
    require_room,
    with_digest,
)
from localllm.library.describe import loose_model
from localllm.library.find import find_model
from localllm.library.lineage import lineage_metadata
from localllm.library.merging.applying import (
    LoraMerge,
    ggml_type,
    row_type_of,
    same_as_stored,
    tensor_outcomes,
)
from localllm.library.merging.choosing import Chooser, Chosen
from localllm.library.merging.ggufout import GGUFOut
from localllm.library.merging.heldout import judged
from localllm.library.merging.importance import Importance, read_importance
from localllm.library.merging.kin import check_kin, made_from
from localllm.library.merging.landing import check_loads, merged_lineage
from localllm.library.merging.lora import Adapter
from localllm.library.merging.naming import adapters_name, lora_command
from localllm.library.merging.pipeline import Workers
from localllm.library.merging.result import AdapterRequest, Losses, MergedAdapters, TypeTrial
from localllm.library.merging.survival import Tally, total
from localllm.library.merging.tensors import GGUFTensors
from localllm.library.stamp import Stamp
from localllm.registry import Lineage, Model, Registry
from localllm.ui import Progress

if TYPE_CHECKING:
    from localllm.engine.quantize.quantize import Quantizer
    from localllm.formats.gguf.rewrite import NewHeader


def merge_adapters(
    base: Model | Path,
    adapters: Sequence[tuple[Model | Path, float]],
    request: AdapterRequest,
    registry: Registry,
    progress: Progress,
    note: Callable[[str], None] = lambda text: None,
    *,
    dry_run: bool = False,
) -> MergedAdapters:
    """Add `adapters`, each with its scale, to `base` and register the result with its lineage.

    What was made the same way before is reused. With `dry_run` nothing is written: types, exact
    size and survival (from a sample) are what the merge would give. Raises UsageProblem (an
    adapter of another base, nothing to change, an unknown type), GateFailed where the type would
    lose the tuning or the merged file did, DamagedFile (also a source that changes meanwhile),
    DiskFull, EngineError. Interrupted or killed, nothing is left under a final name.
    """
    own = _as_model(base, registry)
    given = [(_as_model(adapter, registry), scale) for adapter, scale in adapters]
    if not dry_run:
        own = with_digest(own, progress)
        given = [(with_digest(adapter, progress), scale) for adapter, scale in given]
    if not request.any_base:
        says = any(made_from(adapter) is not None for adapter, _ in given)
        hashed = with_digest(own, progress) if says else own
        for adapter, _ in given:
            check_kin(adapter, hashed, registry)
    with _Work(own, given, request, registry, progress, note) as work:
        return work.preview() if dry_run else work.run()


def try_types(
    base: Model | Path,
    adapters: Sequence[tuple[Model | Path, float]],
    types: Sequence[str],
    registry: Registry,
    progress: Progress,
) -> tuple[TypeTrial, ...]:
    """What each of `types` would keep of the adapters, and the size of the file; from a sample,
    seconds. Raises what `merge_adapters` raises, but no GateFailed."""
    own = _as_model(base, registry)
    given = [(_as_model(adapter, registry), scale) for adapter, scale in adapters]
    with _Work(own, given, AdapterRequest(), registry, progress, lambda text: None) as work:
        return work.tried(types)


class _Work:
    """One merge, with everything that it has open."""

    def __init__(
        self,
        base: Model,
        adapters: Sequence[tuple[Model, float]],
        request: AdapterRequest,
        registry: Registry,
        progress: Progress,
        note: Callable[[str], None],
    ) -> None:
        from localllm.engine.quantize.quantize import Quantizer

        self.base, self.adapters, self.request = base, adapters, request
        self.registry, self.progress, self.note = registry, progress, note
        files = [f.path for f in base.weights]
        used = [*files, *(adapter.path for adapter, _ in adapters)]
        self.stamps = [Stamp.of(path) for path in used]
        self.begun = time.perf_counter()
        opened = GGUFTensors(files, base.name)
        self.merge = LoraMerge(opened, [Adapter(a.path, s, a.name) for a, s in adapters])
        self.importance: Importance | None = None
        if request.imatrix is not None:
            self.importance = read_importance(request.imatrix, opened.model)
        self.quantizer: Quantizer = Quantizer()
        self.workers = Workers(request.n_threads)

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *error: object) -> None:
        self.workers.__exit__(None, None, None)
        self.quantizer.close()
        self.merge.close()

    # --- what would be made -------------------------------------------------------------

    def tried(self, types: Sequence[str]) -> tuple[TypeTrial, ...]:
        from localllm.library.merging.types import recipe_named

        chooser = self._chooser()
        return tuple(chooser.attempt(recipe_named(name)).trial for name in types)

    def preview(self) -> MergedAdapters:
        chosen = self._chooser().choose()
        lineage = self._lineage(chosen, hashed=False)
        header = self._header(chosen.types, chosen.plan.recipe, lineage)
        return self._result(None, self._name(chosen), chosen, header.file_bytes)

    def _chooser(self) -> Chooser:
        def sized(types: dict[str, str], recipe: Ftype) -> int:
            return self._header(types, recipe, None).file_bytes

        return Chooser(
            self.merge, self.request, self.importance, self.quantizer, self.workers, sized
        )

    def _name(self, chosen: Chosen) -> str:
        names = [adapter for adapter, _ in self.adapters]
        return adapters_name(self.base, names, chosen.plan.recipe.name, self.request.name)

    def _lineage(self, chosen: Chosen, *, hashed: bool = True) -> Lineage:
        parents = []
        for model in (self.base, *(adapter for adapter, _ in self.adapters)):
            known = hashed or not model.weights or model.weights[0].sha256 is not None
            parents.append(parent_of(model, self.progress) if known else (model.name, "0" * 64))
        recipe = chosen.plan.recipe.name
        parameters: dict[str, object] = {
            "method": "lora",
            "type": recipe,
            "scales": [scale for _, scale in self.adapters],
        }
        if self.request.keep_others:
            parameters["keep_others"] = True
        inputs = {} if self.importance is None else {"imatrix": self.importance.sha256}
        return merged_lineage(
            parents, lora_command(self.base, self.adapters, recipe, self.request), parameters,
            inputs, chosen.plan.llama_commit,
        )  # fmt: skip

    def _header(self, types: dict[str, str], recipe: Ftype, lineage: Lineage | None) -> NewHeader:
        from localllm.formats.gguf.rewrite import NewTensor, new_header

        base = self.merge.base.model
        tensors = [
            NewTensor(out.name, base.tensors[out.source].shape, ggml_type(types[out.name]))
            for out in self.merge.outputs
        ]
        changes: dict[str, int | str] = {"general.file_type": recipe.number}
        if "general.quantization_version" not in base.metadata:
            changes["general.quantization_version"] = 2  # GGML_QNT_VERSION
        if "tokenizer.chat_template" not in base.metadata and self.merge.chat_template:
            changes["tokenizer.chat_template"] = self.merge.chat_template
        if lineage is not None:
            changes |= lineage_metadata(lineage, base)
        return new_header(base.shards[0], tensors, set=changes)

    # --- making it ----------------------------------------------------------------------

    def run(self) -> MergedAdapters:
        chosen = self._chooser().choose()
        name, lineage = self._name(chosen), self._lineage(chosen)
        header = self._header(chosen.types, chosen.plan.recipe, lineage)
        key = f"merge {name} {lineage.parents} {sorted(map(str, lineage.parameters.items()))}"
        waiting = f"another process makes {name}; waiting for it"
        with self.registry.lock(key, lambda: self.note(waiting)):
            if (model := existing(self.registry, name, lineage)) is not None:
                made = self._result(model, model.name, chosen, model.size_bytes)
                asked = self.request.loss is not None and bool(self.request.loss.texts)
                losses = self._losses(model.path) if asked else None
                return replace(made, reused=True, loss=losses)
            part = self.registry.partial(key, name.replace("/", "-"))
            part.unlink(missing_ok=True)  # what a killed process left
            require_room(part.parent, header.file_bytes)
            try:
                digest, tallies = self._write(part, header, chosen)
                for stamp in self.stamps:
                    stamp.check()
                if self.merge.untied:
                    check_loads(part, name)
                losses = self._losses(part)
                model = register_derived(self.registry, self.base, [(part, digest)], name, lineage)
            finally:
                part.unlink(missing_ok=True)
        made = self._result(model, model.name, chosen, model.size_bytes, tallies)
        return replace(made, loss=losses)

    def _write(self, part: Path, header: NewHeader, chosen: Chosen) -> tuple[str, dict[str, Tally]]:
        tallies = {}
        size = sum(t.size_bytes for t in self.merge.base.model.tensors.values())
        with self.progress.bytes(f"merge {chosen.plan.recipe.name}", size) as advance, GGUFOut(
            part, header
        ) as file:  # fmt: skip
            for out in self.merge.outputs:
                if same_as_stored(self.merge.base, out, chosen.types):
                    self.merge.copy(out, file, advance)
                    continue
                kind = row_type_of(chosen.types[out.name])
                found = self.merge.write(out, kind, self.importance, self.workers, file, advance)
                if out.changed:
                    tallies[out.name] = found
        return file.sha256, tallies

    def _losses(self, part: Path) -> Losses | None:
        """Measured before the result has a name, so that a merge which lost the tuning gets
        none."""
        runnable = [] if self.merge.untied else [(a.path, s) for a, s in self.adapters]
        return judged(self.base.path, runnable, part, self.request, self.progress, self.note)

    def _result(
        self,
        model: Model | None,
        name: str,
        chosen: Chosen,
        file_bytes: int,
        tallies: dict[str, Tally] | None = None,
    ) -> MergedAdapters:
        survival = chosen.trial.survival if tallies is None else total(tallies.values()).result()
        return MergedAdapters(
            model=model,
            name=name,
            base=self.base.name,
            adapters=tuple((adapter.name, scale) for adapter, scale in self.adapters),
            type=chosen.plan.recipe.name,
            reused=False,
            file_bytes=file_bytes,
            survival=survival,
            sampled=tallies is None,
            tried=chosen.tried,
            tensors=tensor_outcomes(self.merge, chosen.types, tallies or {}),
            untied=self.merge.untied,
            ignored=tuple(name for a in self.merge.adapters for name in a.ignored),
            loss=None,
            elapsed_s=time.perf_counter() - self.begun,
        )


def _as_model(given: Model | Path, registry: Registry) -> Model:
    """A path that is registered is that model; an adapter's is that file, a part of it or not."""
    if isinstance(given, Model):
        return given
    found = find_model(f"file:{given}", registry)
    return found if found.path == given.absolute() else loose_model(given)
