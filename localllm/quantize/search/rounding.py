"""What a type's kernel loses by rounding activations, whatever the weights are.

On a CPU the types of 256 weights a block meet activations rounded to eight bits with one scale
for 256 numbers (ggml's Q8_K), those of 32 with one for 32 (Q8_0, Q8_1); floats meet floats.
Where a few activations are huge the others lose much by a shared scale: a Q6_K that is better
than Q8_0's neighbour by its weights can be far worse as computed. What it costs depends on the
tensor's kind and not on how well its weights are kept, so it is one number for each kind and
block length. Back ends that round alike for all types come out with equal numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from localllm.engine.ggml_types import row_type
from localllm.quantize.search.groups import kind_of
from localllm.quantize.search.sensitivity import Damage

# The best of either block length: little but rounding is left of what they do.
PROBES = ("q6_k", "q8_0")


@dataclass
class Rounding:
    """Nats a token for each tensor of a kind, by the block length of its type."""

    _each: dict[str, dict[int, float]] = field(default_factory=dict)

    def knows(self, kind: str) -> bool:
        return kind in self._each

    def of(self, tensor: str, type_name: str) -> float:
        """0 where nothing was measured."""
        each = self._each.get(kind_of(tensor))
        return 0.0 if each is None else each.get(row_type(type_name).block_elements, 0.0)

    def sum(self, types: Mapping[str, str]) -> float:
        return sum(self.of(name, kind) for name, kind in types.items())

    def learn(
        self,
        kind: str,
        n_tensors: int,
        coarse: tuple[float, float],
        measured: Iterable[tuple[float, float]],
    ) -> None:
        """From (sum of errors, divergence) of all `n_tensors` of a kind: `coarse` in types of few
        bits and long blocks, `measured` in PROBES. Divergence is a slope times the errors, and
        the rounding; the first two have the same rounding, which gives the slope."""
        fine, eight = measured
        slope = 0.0
        if coarse[0] > fine[0]:
            slope = max(0.0, coarse[1] - fine[1]) / (coarse[0] - fine[0])
        self._each[kind] = {
            row_type(name).block_elements: max(0.0, kld - slope * error) / n_tensors
            for name, (error, kld) in zip(PROBES, (fine, eight), strict=True)
        }


def kinds_with_a_choice(options: Mapping[str, Sequence[Damage]]) -> dict[str, tuple[str, ...]]:
    """By kind, its tensors: of kinds of which every tensor can have all PROBES. The largest
    first."""
    found: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for name, damages in options.items():
        kind = kind_of(name)
        found.setdefault(kind, []).append(name)
        sizes[kind] = sizes.get(kind, 0) + min(d.size_bytes for d in damages)
    able = {n for n, ds in options.items() if set(PROBES) <= {d.type for d in ds}}
    return {
        kind: tuple(found[kind])
        for kind in sorted(sizes, key=lambda k: -sizes[k])
        if able.issuperset(found[kind])
    }
