"""Which type a merge is written in: tried on a sample of every tensor that changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm.engine.ftypes import Ftype, ftype
from localllm.errors import GateFailed, UsageProblem
from localllm.library.merging.applying import LoraMerge, row_type_of
from localllm.library.merging.importance import Importance
from localllm.library.merging.lora import OUTPUT
from localllm.library.merging.pipeline import Workers
from localllm.library.merging.result import AdapterRequest, TypeTrial
from localllm.library.merging.survival import Survival, total
from localllm.library.merging.types import (
    FLOATS,
    TypePlan,
    lifted,
    own_type,
    plan_types,
    recipe_named,
    stored_types,
    wider_than,
)

if TYPE_CHECKING:
    from localllm.engine.quantize.quantize import Quantizer

# A type keeps the tuning where the share that survives lies in this band. On the base's own grid
# a usual adapter keeps 0 to 5 %. Over 1 is as bad: where the base's weights lie halfway between
# the steps of a coarser type, the change only decides which way they fall, and moves them by a
# whole step (measured: Q4_0 of a Q5_0 base, 40). docs/merge.md has the figures.
KEEPS = (0.8, 1.25)
_MOST_SLACK = 0.6


def kept(survival: Survival) -> bool:
    """Whether a share lies in the band, as far as the sample tells: coarse types add noise that
    is many times the change, and a few rows of one small tensor then say little."""
    if survival.share is None:
        return False
    slack = min(2 * survival.error, _MOST_SLACK)
    return KEEPS[0] - slack <= survival.share <= KEEPS[1] + slack


@dataclass(frozen=True)
class Chosen:
    """The type to write, the type of every tensor of the result, and all that was tried."""

    plan: TypePlan
    types: dict[str, str]
    trial: TypeTrial
    tried: tuple[TypeTrial, ...]


@dataclass
class Chooser:
    """Tries types for one merge. `sized` gives the file's bytes for the types of its tensors."""

    merge: LoraMerge
    request: AdapterRequest
    importance: Importance | None
    quantizer: Quantizer
    workers: Workers
    sized: Callable[[dict[str, str], Ftype], int]

    def choose(self) -> Chosen:
        """The requested type, or the smallest that keeps the tuning. Raises GateFailed."""
        if self.request.type is not None:
            return self._requested(recipe_named(self.request.type))
        tried = []
        for recipe in self._rungs():
            found = self.attempt(recipe)
            tried.append(found.trial)
            if found.trial.keeps:
                return Chosen(found.plan, found.types, found.trial, tuple(tried))
        raise GateFailed(
            "no type keeps this tuning: " + _figures(tried),
            "train it harder: changes of this size are below the precision of 32 bits",
        )

    def attempt(self, recipe: Ftype) -> Chosen:
        """What `recipe` would make and keep. Raises UsageProblem, EngineError."""
        base = self.merge.base.model
        path = self.merge.base.path
        plan = plan_types(path, recipe, self.quantizer, weighted=self.importance is not None)
        changed = {out.source for out in self.merge.changed}
        types = stored_types(base, plan, changed, keep_others=self.request.keep_others)
        own = own_type(base, types, changed)
        if not own:
            types = lifted(base, types, changed)
        if self.merge.untied:
            types |= self._untied(types)
        survival = total(
            self.merge.sampled(out, row_type_of(types[out.name]), self.importance, self.workers)
            for out in self.merge.changed
        ).result()
        keeps = not own and kept(survival)
        trial = TypeTrial(recipe.name, survival, own, keeps, self.sized(types, recipe))
        return Chosen(plan, types, trial, (trial,))

    def _untied(self, types: dict[str, str]) -> dict[str, str]:
        """Types of embedding and output where the base has one tensor for both: what is not
        changed stays."""
        found = {}
        for out in self.merge.outputs:
            if out.source == out.name and out.name != "token_embd.weight":
                continue
            stored = self.merge.base.model.tensors[out.source].type.name.lower()
            found[out.name] = types[out.source] if out.changed else stored
        assert OUTPUT in found
        return found

    def _requested(self, recipe: Ftype) -> Chosen:
        found = self.attempt(recipe)
        if found.trial.keeps or self.request.allow_loss:
            return found
        tried, keeper = [found.trial], None
        for rung in self._rungs():
            if rung.name == recipe.name or _bits(rung) <= _bits(recipe):
                continue
            tried.append(self.attempt(rung).trial)
            if tried[-1].keeps:
                keeper = tried[-1]
                break
        if not math.isfinite(found.trial.survival.share or 0.0):
            raise UsageProblem(
                "the adapters change weights by more than can be computed with", "a smaller scale"
            )
        raise GateFailed(self._lost(found.trial), _way_out(keeper))

    def _lost(self, trial: TypeTrial) -> str:
        share = trial.survival.share or 0.0
        text = f"{trial.type} would keep {share * 100:.3g} % of what was tuned"
        base = self.merge.base.name
        if trial.own_type and kept(trial.survival):
            return (
                f"{base} is stored in {trial.type} already, where small changes round back: by "
                f"default nothing is merged into a model's own type (this tuning is large, and "
                f"would keep {share * 100:.3g} %)"
            )
        if trial.own_type:
            text += (
                f": {base} is stored in that type already, and a change of less than half its "
                "step rounds back"
            )
        elif share > KEEPS[1]:
            text += (
                f", far too much: weights of {base} lie halfway between its steps, and the "
                "change tips them over"
            )
        return text

    def _rungs(self) -> Sequence[Ftype]:
        base = self.merge.base.model
        own = base.file_type.name if base.file_type is not None else None
        if own is not None and own.lower() in FLOATS:
            return [ftype(own), *([ftype("F32")] if own != "F32" else [])]
        return wider_than(base)


def _figures(tried: Sequence[TypeTrial]) -> str:
    return ", ".join(f"{t.type} {(t.survival.share or 0.0) * 100:.3g} %" for t in tried)


def _way_out(keeper: TypeTrial | None) -> str:
    if keeper is None:
        return "--allow-loss merges all the same"
    share = (keeper.survival.share or 0.0) * 100
    return f"--type {keeper.type} keeps {share:.3g} %; --allow-loss merges all the same"


def _bits(recipe: Ftype) -> float:
    kind = row_type_of(recipe.base)
    return kind.block_bytes * 8 / kind.block_elements
