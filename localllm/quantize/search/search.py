"""The type of every tensor for which a model of a given size loses least.

Damage is taken as a sum over tensors (`damage_model`), and what it takes to know it is measured:
first each group alone, near the size wanted; then each kind of tensor in types that lose next to
nothing else, and each layer; then groups again where the types chosen lie far from what was
measured, until they do not. A tensor so large that its type decides what is left for all others
(an embedding) is not left to the sum: choices with other types of it are measured whole, and the
best is taken. (Measuring choices that differ by chance, to correct every group's count, took twice
the runs and chose no better on other text: docs/quantize.md.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from localllm.quantize.search.choices import bits_for, near
from localllm.quantize.search.curves import Point
from localllm.quantize.search.damage_model import DamageModel
from localllm.quantize.search.found import Found
from localllm.quantize.search.groups import PARTS
from localllm.quantize.search.layers import factors_of, stretches
from localllm.quantize.search.rounding import PROBES, kinds_with_a_choice
from localllm.quantize.search.sensitivity import Damage

Measure = Callable[[Mapping[str, str]], float]  # mean KL divergence, nats a token

# A choice whose error differs by more than this from what was measured is measured itself.
_FAR = 1.7
_ROUNDS = 3  # of choosing and measuring what was chosen far off
_BESIDE = 2  # types on either side that are tried of a large tensor


@dataclass
class Search:
    """What is known of one model; `find` may be called for several sizes, and learns.

    `damages` has the types each tensor may get, `pinned` types of others that stay. Divergences
    are measured with `measure`, those of whole choices with `measure_whole` (on more text), until
    the moment `until` (of time.monotonic); without, errors decide alone.
    """

    damages: Mapping[str, Sequence[Damage]]
    n_layers: int
    pinned: Mapping[str, str] = field(default_factory=dict)
    measure: Measure | None = None
    measure_whole: Measure | None = None
    until: float = float("inf")
    parts: int = PARTS
    advance: Callable[[str], None] = lambda what: None

    def __post_init__(self) -> None:
        self.model = DamageModel(self.damages, self.n_layers, self.parts)
        self.measure_whole = self.measure_whole or self.measure
        self.runs = 0
        self.stopped = False

    def find(self, budget_bytes: int) -> Found:
        """Choose within `budget_bytes` for the tensors of `damages`. Raises DoesNotFit where the
        smallest types exceed the budget."""
        begun, runs, kld = time.monotonic(), self.runs, None
        chosen = self.allocated(budget_bytes)
        if self.measure is not None:
            self._probe(budget_bytes)
            self._probe_rounding()
            self._probe_layers(budget_bytes)
            for _ in range(_ROUNDS):
                chosen = self.allocated(budget_bytes)
                if not self._probe_far(chosen):
                    break
            chosen, kld = self._settled_large(budget_bytes)
        return Found(
            types=chosen,
            size_bytes=self.model.size_bytes(chosen),
            predicted=self.model.predicted(chosen),
            bound=self.model.bound(budget_bytes),
            kld=kld,
            groups=self.model.explained(chosen),
            runs=self.runs - runs,
            took_s=time.monotonic() - begun,
            complete=not self.stopped,
        )

    def allocated(self, budget_bytes: int) -> dict[str, str]:
        """The best choice by what is known now, without measuring anything."""
        return self.model.allocated(budget_bytes)

    # --- groups and kinds -----------------------------------------------------------------

    def _probe(self, budget_bytes: int) -> None:
        """Each group alone, the largest first: where time ends, the rest matters least."""
        bits, model = bits_for(self.damages, budget_bytes), self.model
        for group in sorted(model.groups, key=lambda g: -model.least_bytes(g)):
            types = {name: near(model.wise[name], bits) for name in model.groups[group]}
            known = model.curves.nearest(group, model.error(types))
            if known is None or _ratio(known.error, model.error(types)) > _FAR:
                self._measure_group(group, types)

    def _probe_rounding(self) -> None:
        """Kinds of tensors whose types differ in how they round activations, the largest first."""
        model = self.model
        for kind, names in kinds_with_a_choice(model.wise).items():
            if model.rounding.knows(kind):
                continue
            error, kld = 0.0, 0.0  # by the groups alone
            for group in {model.group_of[n] for n in names}:
                points = model.curves.points.get(group)
                if points:
                    error += points[-1].error * points[-1].n_tensors
                    kld += points[-1].kld
            measured = []
            for kind_of_type in PROBES:
                types = dict.fromkeys(names, kind_of_type)
                nats = self._run(f"{kind}, {kind_of_type}", types)
                if nats is None:
                    return
                measured.append((model.error(types) * len(names), nats))
            model.rounding.learn(kind, len(names), (error, kld), measured)
            model.curves.round_by(model.rounding.sum)

    def _probe_layers(self, budget_bytes: int) -> None:
        """Each layer alone, once; some at a time where there are many."""
        model = self.model
        if model.layers:
            return
        bits = bits_for(self.damages, budget_bytes)
        ratios: dict[tuple[str, ...], float] = {}
        damages: dict[str, float] = {}
        for number, names in enumerate(stretches(self.damages, self.n_layers), 1):
            types = {name: near(model.wise[name], bits) for name in names}
            alone = model.by_tensor(types)
            nats = self._run(f"layers, part {number}", types)
            if nats is None:
                return  # some alone would say nothing of the others
            if sum(alone.values()) > 0:
                ratios[names] = nats / sum(alone.values())
                damages |= alone
        model.layers = factors_of(ratios, damages, model.groups)

    def _probe_far(self, chosen: Mapping[str, str]) -> bool:
        """Groups whose types were chosen far from what was measured. True if there were any."""
        found = False
        for group, names in self.model.groups.items():
            types = {name: chosen[name] for name in names}
            error, near = self.model.error(types), None
            if error > 0:
                near = self.model.curves.nearest(group, error)
            if near is not None and _ratio(near.error, error) > _FAR:
                found |= self._measure_group(group, types)
        return found

    def _measure_group(self, group: str, types: Mapping[str, str]) -> bool:
        error = self.model.error(types)
        if error <= 0:
            return False
        kld = self._run(group, types)
        if kld is None:
            return False
        lost = self.model.rounding.sum(types)
        self.model.curves.add(group, Point(dict(types), len(types), error, kld, lost))
        return True

    # --- whole choices --------------------------------------------------------------------

    def _settled_large(self, budget_bytes: int) -> tuple[dict[str, str], float | None]:
        """The choice, and its divergence: of large tensors the type with which the whole choice
        was measured to lose least, the others as the sum of damages has it beside them."""
        chosen, fixed = self.allocated(budget_bytes), dict[str, str]()
        kld = self._whole_run("the choice", chosen)
        for name in self.model.large(budget_bytes):
            tried = {chosen[name]}
            while kld is not None:
                found = None
                for kind in self.model.beside(name, chosen[name], _BESIDE):
                    if kind in tried or not self.model.has_room(
                        budget_bytes, {**fixed, name: kind}
                    ):
                        continue
                    tried.add(kind)
                    other = self.model.allocated(budget_bytes, {**fixed, name: kind})
                    loss = self._whole_run(f"{name} in {kind}", other)
                    if loss is not None and loss < kld:
                        found, kld = other, loss
                if found is None:
                    break
                chosen = found
            fixed[name] = chosen[name]
        return chosen, kld

    # --- running --------------------------------------------------------------------------

    def _whole_run(self, label: str, chosen: Mapping[str, str]) -> float | None:
        types = {**self.pinned, **chosen}
        return self._run(label, types, needed=False, measure=self.measure_whole)

    def _run(
        self, label: str, types: Mapping[str, str], *,
        needed: bool = True, measure: Measure | None = None,
    ) -> float | None:  # fmt: skip
        """None where time is over; where what was `needed` could not be run, that is noted."""
        measure = measure or self.measure
        if measure is None or time.monotonic() >= self.until:
            self.stopped |= needed
            return None
        self.advance(label)
        self.runs += 1
        return measure(types)

    def trimmed(self, types: Mapping[str, str], bytes_over: int) -> dict[str, str]:
        """`types` with so many bytes less, changed as little as can be."""
        smaller = self.model.trimmed(types, bytes_over)
        return smaller or self.allocated(self.model.size_bytes(types) - bytes_over)

    def settled(self, found: Found, planned: Mapping[str, str]) -> Found:
        """`found` as it came out in a plan, where a last few bytes may have changed a type. What
        was measured whole is then of nearly the same."""
        types = {name: planned[name] for name in self.damages}
        if types == found.types:
            return found
        return replace(
            found,
            types=types,
            size_bytes=self.model.size_bytes(types),
            predicted=self.model.predicted(types),
            groups=self.model.explained(types),
        )


def _ratio(a: float, b: float) -> float:
    return max(a, b) / min(a, b) if min(a, b) > 0 else float("inf")
