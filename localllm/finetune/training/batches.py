"""Which examples make a step, and how they are laid into rows without padding.

A step is `batch_size` examples, drawn without replacement in an order that the seed decides. It is
computed in packs: examples laid one after the other up to a number of tokens, whole, so that
memory does not depend on how long the examples of a step happen to be and nothing is computed
for padding. Sums over packs are divided by the whole step's count, so that how a step was packed
changes nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Tokens(Protocol):
    """One sequence: token ids, and which of them count as predicted."""

    @property
    def ids(self) -> NDArray[np.int32]: ...

    @property
    def mask(self) -> NDArray[np.bool_]: ...


_WINDOW = 512  # items

Item = Sequence[Tokens]
"""What is learned from at once: one sequence, or the two of a preference."""


def predicted(sequence: Tokens) -> NDArray[np.intp]:
    """Places of the tokens that count. Never the first one: nothing stands before it."""
    places = np.flatnonzero(sequence.mask)
    return places[places > 0]


def needed(sequence: Tokens) -> int:
    """How many of the first tokens must be computed: what follows the last predicted one, and
    that one itself, decides nothing."""
    places = predicted(sequence)
    return int(places[-1]) if len(places) else 0


@dataclass(frozen=True)
class Pack:
    """Sequences one after the other. `rows` are the positions [n] whose next token is predicted,
    `targets` those tokens [n], `owners` the sequence each belongs to [n]. `items` are indices
    into what was packed, one an item."""

    ids: Tensor  # [1, tokens]
    positions: Tensor  # [1, tokens]
    segments: tuple[int, ...]
    rows: Tensor
    targets: Tensor
    owners: Tensor
    items: tuple[int, ...]

    def to(self, device: torch.device) -> Pack:
        """The pack on `device`: nobody waits for its few kilobytes."""
        if device == self.ids.device:
            return self
        return replace(
            self,
            ids=_sent(self.ids, device),
            positions=_sent(self.positions, device),
            rows=_sent(self.rows, device),
            targets=_sent(self.targets, device),
            owners=_sent(self.owners, device),
        )

    @property
    def n_tokens(self) -> int:
        return int(self.ids.shape[1])

    @property
    def n_targets(self) -> int:
        return len(self.targets)

    @property
    def n_items(self) -> int:
        return len(self.items)


def pack(items: Sequence[Item], numbers: Sequence[int], first: int = 0) -> Pack:
    """The items `numbers` of `items` as one pack. The pack's own numbers count from `first`."""
    ids, positions, rows, targets, owners = [], [], [], [], []
    segments: list[int] = []
    begin = 0
    for sequence in (one for number in numbers for one in items[number]):
        length = needed(sequence)
        places = predicted(sequence)
        ids.append(sequence.ids[:length])
        positions.append(np.arange(length))
        rows.append(places - 1 + begin)
        targets.append(sequence.ids[places])
        owners.append(np.full(len(places), len(segments)))
        segments.append(length)
        begin += length
    return Pack(
        ids=_tensor(ids)[None],
        positions=_tensor(positions)[None],
        segments=tuple(segments),
        rows=_tensor(rows),
        targets=_tensor(targets),
        owners=_tensor(owners),
        items=tuple(first + number for number in numbers),
    )


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return tensor.to(device)
    # from pinned memory the copy goes beside what is computed; torch keeps the memory until then
    return tensor.pin_memory().to(device, non_blocking=True)


def _tensor(parts: Sequence[NDArray[np.generic]]) -> Tensor:
    whole = np.concatenate(parts) if parts else np.empty(0)
    return torch.from_numpy(whole.astype(np.int64))


@dataclass(frozen=True)
class Batches:
    """All steps of a run over `items`. The same numbers give the same steps, at any place.

    `first` is the number of the first item, where others have numbers before it.
    """

    items: Sequence[Item]
    batch_size: int
    pack_tokens: int
    seed: int
    first: int = 0

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Tokens of each item."""
        return tuple(sum(needed(one) for one in item) for item in self.items)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.items) // self.batch_size)

    def step(self, number: int) -> list[Pack]:
        """The packs of the step numbered from 0, over as many epochs as it takes."""
        epoch, place = divmod(number, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.items))
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        return [pack(self.items, group, self.first) for group in self.groups(chosen.tolist())]

    def windows(self) -> Iterator[list[Pack]]:
        """Every item once, in no order that means anything, for measuring: the packs of some
        items at a time, so that neither memory nor packing grows faster than the items do."""
        for begin in range(0, len(self.items), _WINDOW):
            numbers = range(begin, min(begin + _WINDOW, len(self.items)))
            yield [pack(self.items, group, self.first) for group in self.groups(numbers)]

    def groups(self, numbers: Sequence[int]) -> list[list[int]]:
        """`numbers` in groups of at most `pack_tokens` tokens: longest first, each into the
        first group that has room. An item that is longer is a group of its own."""
        groups: list[list[int]] = []
        room: list[int] = []
        for number in sorted(numbers, key=lambda n: (-self.sizes[n], n)):
            size = self.sizes[number]
            place = next((i for i, free in enumerate(room) if free >= size), None)
            if place is None:
                groups.append([number])
                room.append(self.pack_tokens - size)
            else:
                groups[place].append(number)
                room[place] -= size
        return groups

    @property
    def largest_pack(self) -> list[int]:
        """The items of the pack with the most tokens that a step may have."""
        sizes = self.sizes
        longest = sorted(range(len(sizes)), key=lambda n: -sizes[n])[: self.batch_size]
        groups = self.groups(longest)
        return max(groups, key=lambda group: sum(sizes[n] for n in group))
