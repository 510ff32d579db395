"""The type of every tensor for which a model of a given size loses least.

Damage is a sum over tensors: the weighted relative error of the type (`sensitivity`) times how
much the model's answers suffer from error in tensors of that group (`curves`), and what the
type's kernel loses by rounding activations (`rounding`). Both are measured: first each group
alone, near the size wanted; then each kind of tensor in types that lose next to nothing else;
then groups again where the types chosen lie far from what was measured, until they do not;
then choices of the wanted size that differ by chance, whole, which corrects what the groups
count for beside each other (`whole`). What is chosen by that is measured whole, too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from localllm.quantize.search.allocate import Item, Option, allocate
from localllm.quantize.search.choices import allowed, bits_for, near
from localllm.quantize.search.curves import Curves, Point
from localllm.quantize.search.found import Found, GroupDamage
from localllm.quantize.search.groups import PARTS, group_by_tensor, grouped
from localllm.quantize.search.rounding import PROBES, Rounding, kinds_with_a_choice
from localllm.quantize.search.sensitivity import Damage
from localllm.quantize.search.whole import Observed, factors

Measure = Callable[[Mapping[str, str]], float]  # mean KL divergence, nats a token

_REFERENCES = ("q4_0", "q8_0", "f16")  # a type that all tensors of a group can have
# A choice whose error differs by more than this from what was measured is measured itself.
_FAR = 1.7
_ROUNDS = 3  # of choosing and measuring what was chosen far off
_WHOLE = 2.5  # choices measured whole for each group
_WHOLE_SPREAD = 0.5  # standard deviation of the logarithm by which their groups' damages vary
_LEAST_WHOLE = 8  # fewer say nothing
_LEARN_EVERY = 12  # choices after which what they say is used for the next


@dataclass
class Search:
    """What is known of one model; `find` may be called for several sizes, and learns.

    `damages` has the types each tensor may get, `pinned` types of others that stay. With
    `measure` divergences are measured until the moment `until` (of time.monotonic); without,
    errors decide alone.
    """

    damages: Mapping[str, Sequence[Damage]]
    n_layers: int
    pinned: Mapping[str, str] = field(default_factory=dict)
    measure: Measure | None = None
    until: float = float("inf")
    whole: float = _WHOLE
    parts: int = PARTS
    advance: Callable[[str], None] = lambda what: None

    def __post_init__(self) -> None:
        self._wise = {name: allowed(name, options) for name, options in self.damages.items()}
        self.groups = grouped(self.damages, self.n_layers, self.parts)
        self.curves = Curves()
        self.rounding = Rounding()
        self._factors: dict[str, float] = {}
        self.runs = 0
        self.stopped = False
        self._of = group_by_tensor(self.groups)
        self._by_type = {n: {d.type: d for d in ds} for n, ds in self.damages.items()}
        self._scale = {n: s for g in self.groups.values() for n, s in self._evened(g).items()}

    def find(self, budget_bytes: int) -> Found:
        """Choose within `budget_bytes` for the tensors of `damages`. Raises DoesNotFit where the
        smallest types exceed the budget."""
        begun, runs = time.monotonic(), self.runs
        chosen = self.allocated(budget_bytes)
        kld: float | None = None
        if self.measure is not None:
            self._probe(budget_bytes)
            self._probe_rounding()
            for _ in range(_ROUNDS):
                chosen = self.allocated(budget_bytes)
                if not self._probe_far(chosen):
                    break
            self._learn_whole(budget_bytes)
            chosen = self.allocated(budget_bytes)
            kld = self._run("the whole choice", {**self.pinned, **chosen}, needed=False)
        return self._found(budget_bytes, chosen, kld, self.runs - runs, begun)

    def allocated(self, budget_bytes: int) -> dict[str, str]:
        """The best choice by what is known now, without measuring anything."""
        return dict(allocate(self._items(budget_bytes), budget_bytes).types)

    def _items(self, budget_bytes: int) -> list[Item]:
        """With the types that are wise; with all, where only those are small enough."""
        least = sum(min(d.size_bytes for d in options) for options in self._wise.values())
        return [
            Item(name, tuple(Option(d.type, d.size_bytes, self._damage(d)) for d in options))
            for name, options in (self._wise if least <= budget_bytes else self.damages).items()
        ]

    def _evened(self, names: Sequence[str]) -> dict[str, float]:
        """What each tensor's errors are multiplied by, so that in one type all tensors of a
        group have the same. The energy of some is that of a few huge activations: their share
        of lost energy is small, and yet their loss was measured to hurt as the others' does."""
        common = set.intersection(*(set(self._by_type[n]) for n in names))
        known = [t for t in _REFERENCES if t in common]
        errors = {n: self._by_type[n][known[0]].error for n in names} if known else {}
        if not errors or min(errors.values()) <= 0:
            return dict.fromkeys(names, 1.0)
        usual = statistics.geometric_mean(errors.values())
        return {n: usual / error for n, error in errors.items()}

    def _error_of(self, damage: Damage) -> float:
        return damage.error * self._scale[damage.tensor]

    def _damage(self, damage: Damage) -> float:
        error = self._error_of(damage)
        lost = self.rounding.of(damage.tensor, damage.type)
        group = self._of[damage.tensor]
        return self._factors.get(group, 1.0) * (error * self.curves.slope(group, error) + lost)

    # --- measuring ------------------------------------------------------------------------

    def _probe(self, budget_bytes: int) -> None:
        """Each group alone, the largest first: where time ends, the rest matters least."""
        bits = bits_for(self.damages, budget_bytes)
        for group in sorted(self.groups, key=lambda g: -self._least_bytes(g)):
            types = {name: near(self._wise[name], bits) for name in self.groups[group]}
            known = self.curves.nearest(group, self._error(types))
            if known is None or _ratio(known.error, self._error(types)) > _FAR:
                self._measure_group(group, types)

    def _probe_rounding(self) -> None:
        """Kinds of tensors whose types differ in how they round activations, the largest first."""
        for kind, names in kinds_with_a_choice(self._wise).items():
            if self.rounding.knows(kind):
                continue
            error, kld = 0.0, 0.0  # by the groups alone
            for group in {self._of[n] for n in names}:
                points = self.curves.points.get(group)
                if points:
                    error += points[-1].error * points[-1].n_tensors
                    kld += points[-1].kld
            measured = []
            for kind_of_type in PROBES:
                types = dict.fromkeys(names, kind_of_type)
                nats = self._run(f"{kind}, {kind_of_type}", types)
                if nats is None:
                    return
                measured.append((self._error(types) * len(names), nats))
            self.rounding.learn(kind, len(names), (error, kld), measured)
            self.curves.round_by(self.rounding.sum)

    def _probe_far(self, chosen: Mapping[str, str]) -> bool:
        """Groups whose types were chosen far from what was measured. True if there were any."""
        found = False
        for group, names in self.groups.items():
            types = {name: chosen[name] for name in names}
            error, near = self._error(types), None
            if error > 0:
                near = self.curves.nearest(group, error)
            if near is not None and _ratio(near.error, error) > _FAR:
                found |= self._measure_group(group, types)
        return found

    def _learn_whole(self, budget_bytes: int) -> None:
        """Correct what the groups count for, at this size, by measuring whole choices."""
        import numpy as np

        self._factors = {}
        observed: list[Observed] = []
        by_chance = np.random.default_rng(0)
        wanted = round(self.whole * len(self.groups))
        rest = 0.0
        if self.pinned and wanted:
            rest = self._run("pinned tensors", self.pinned, needed=False) or 0.0
        for number in range(wanted):
            learned = dict(self._factors)
            spread = np.exp(by_chance.normal(0.0, _WHOLE_SPREAD, len(self.groups)))
            self._factors = {
                group: learned.get(group, 1.0) * float(factor)
                for group, factor in zip(self.groups, spread, strict=True)
            }
            chosen = self.allocated(budget_bytes)
            self._factors = {}
            types = {**self.pinned, **chosen}
            kld = self._run(f"choice {number + 1} of {wanted}", types, needed=False)
            if kld is not None and kld > 0:
                damages = {g: self._predicted(chosen, ns) for g, ns in self.groups.items()}
                observed.append(Observed(damages, kld))
            last = kld is None or number + 1 == wanted
            self._factors = learned
            if len(observed) >= _LEAST_WHOLE and (last or len(observed) % _LEARN_EVERY == 0):
                self._factors = factors(observed, rest)
            if kld is None:
                return

    def _measure_group(self, group: str, types: Mapping[str, str]) -> bool:
        error = self._error(types)
        if error <= 0:
            return False
        kld = self._run(group, types)
        if kld is None:
            return False
        lost = self.rounding.sum(types)
        self.curves.add(group, Point(dict(types), len(types), error, kld, lost))
        return True

    def _run(self, label: str, types: Mapping[str, str], *, needed: bool = True) -> float | None:
        """None where time is over; where what was `needed` could not be run, that is noted."""
        if self.measure is None or time.monotonic() >= self.until:
            self.stopped |= needed
            return None
        self.advance(label)
        self.runs += 1
        return self.measure(types)

    # --- sums -----------------------------------------------------------------------------

    def _error(self, types: Mapping[str, str]) -> float:
        """Mean over the tensors."""
        found = [self._error_of(self._by_type[n][t]) for n, t in types.items()]
        return sum(found) / max(1, len(found))

    def _predicted(self, chosen: Mapping[str, str], names: Sequence[str]) -> float:
        return sum(self._damage(self._by_type[n][chosen[n]]) for n in names)

    def _least_bytes(self, group: str) -> int:
        return sum(min(d.size_bytes for d in self.damages[n]) for n in self.groups[group])

    def _found(
        self,
        budget_bytes: int,
        chosen: Mapping[str, str],
        kld: float | None,
        runs: int,
        begun: float,
    ) -> Found:
        return Found(
            types=chosen,
            size_bytes=sum(self._by_type[n][t].size_bytes for n, t in chosen.items()),
            predicted=sum(self._predicted(chosen, [n]) for n in chosen),
            bound=allocate(self._items(budget_bytes), budget_bytes).bound,
            kld=kld,
            groups=self.explained(chosen),
            runs=runs,
            took_s=time.monotonic() - begun,
            complete=not self.stopped,
        )

    def settled(self, found: Found, planned: Mapping[str, str]) -> Found:
        """`found` as it came out in a plan, where a last few bytes may have changed a type. What
        was measured whole is then of nearly the same."""
        types = {name: planned[name] for name in self.damages}
        if types == found.types:
            return found
        return replace(
            found,
            types=types,
            size_bytes=sum(self._by_type[n][t].size_bytes for n, t in types.items()),
            predicted=sum(self._predicted(types, [n]) for n in types),
            groups=self.explained(types),
        )

    def explained(self, chosen: Mapping[str, str]) -> tuple[GroupDamage, ...]:
        """The groups of a choice, in the model's order."""
        return tuple(self._explained(g, names, chosen) for g, names in self.groups.items())

    def _explained(
        self, group: str, names: Sequence[str], chosen: Mapping[str, str]
    ) -> GroupDamage:
        types: dict[str, int] = {}
        for name in names:
            types[chosen[name]] = types.get(chosen[name], 0) + 1
        mine = [self._by_type[n][chosen[n]] for n in names]
        point = self.curves.nearest(group, sum(map(self._error_of, mine)) / len(mine))
        return GroupDamage(
            group=group,
            n_tensors=len(names),
            types=types,
            size_bytes=sum(d.size_bytes for d in mine),
            error=sum(d.error for d in mine),
            probe=None if point is None else "/".join(sorted(set(point.types.values()))),
            kld=None if point is None else point.kld,
            predicted_kld=self._predicted(chosen, names),
        )


def _ratio(a: float, b: float) -> float:
    return max(a, b) / min(a, b) if min(a, b) > 0 else float("inf")
