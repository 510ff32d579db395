"""Who computes how much in a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localllm.engine.batching import TokenBatch
from localllm.engine.build import devices
from localllm.engine.context import Context
from localllm.engine.scheduler.slot import AdapterKey, Slot

# Steps that sequences with one set of adapters have before those with another have theirs:
# changing them makes llama.cpp build its graph anew.
_GROUP_STEPS = 8
_TILE = 64  # GGML_FA_TILE_Q


@dataclass
class Part:
    """`n` tokens of one slot; `output` is where the last one's logits are, if wanted."""

    slot: Slot
    n: int
    output: int | None = None


class Turns:
    """Everyone's next token first; prompts take turns for the rest.

    A prompt whose turn it is takes all the room there is, and then goes to the end of the line:
    short prompts are done in one turn, and a long one does not keep them waiting.
    """

    def __init__(self, limit: int, most_singles: int) -> None:
        """`limit` tokens a step; without a prompt among them, at most `most_singles`."""
        self.limit = limit
        self._most_singles = most_singles
        self._n_steps = 0
        self._line: list[Slot] = []  # prompts, whose turn is next first
        self._key: AdapterKey = ()
        self._steps = 0

    def group(self, ready: Sequence[Slot]) -> list[Slot]:
        """Those of one set of adapters, each set in its turn."""
        keys = list(dict.fromkeys(slot.key for slot in ready))
        if self._key not in keys:
            self._key, self._steps = keys[0], 0
        elif len(keys) > 1 and self._steps >= _GROUP_STEPS:
            self._key, self._steps = keys[(keys.index(self._key) + 1) % len(keys)], 0
        self._steps += 1
        return [slot for slot in ready if slot.key == self._key]

    def parts(self, group: Sequence[Slot]) -> list[Part]:
        room = self.limit
        self._n_steps += 1
        singles = self._singles([slot for slot in group if slot.remaining == 1], len(group))
        for slot in singles:
            slot.stepped = self._n_steps
        parts = [Part(slot, 1) for slot in singles]
        room -= len(parts)
        prompts = {slot for slot in group if slot.remaining > 1}
        self._line = [slot for slot in self._line if not slot.ended and slot.remaining > 1]
        in_line = set(self._line)
        self._line += [slot for slot in group if slot in prompts and slot not in in_line]
        for slot in [slot for slot in self._line if slot in prompts]:
            if room == 0:
                break
            n = min(slot.remaining, room, _to_mark(slot))
            parts.append(Part(slot, n))
            room -= n
            self._line.remove(slot)
            if n < slot.remaining:
                self._line.append(slot)
        return parts

    def _singles(self, ready: list[Slot], n_group: int) -> list[Slot]:
        """Who has its next token now: all, or a fair share of them."""
        n_rounds = 1
        if len(ready) == n_group:  # nobody's prompt
            n_rounds = max(1, -(-len(ready) // self._most_singles))
        n = min(self.limit, -(-len(ready) // n_rounds))
        if n < len(ready):
            ready = sorted(ready, key=lambda slot: slot.stepped)[:n]
        # In order of sequence: llama.cpp computes those with consecutive numbers together where
        # each has a stream of its own.
        return sorted(ready, key=lambda slot: slot.sequence or 0)


def most_singles(context: Context) -> int:
    """How many sequences had best have their next token in one batch.

    From 64 tokens on, flash attention on the CPU works in tiles (GGML_FA_TILE_Q in ggml-cpu),
    which pass over every cell of the pool, while smaller batches skip those of other sequences:
    a batch of 64 took twice as long as two of 32 on Gemma 3 270M with 100 cells each.
    """
    options = context.options
    tiled = options.type_k.lower() == options.type_v.lower() in ("f16", "f32")
    on_gpu = context.model.options.n_gpu_layers != 0 and any(one.offloads for one in devices())
    if on_gpu or not tiled or not options.kv_unified or options.flash_attn == "off":
        return context.n_seq_max
    return _TILE - 1


def _to_mark(slot: Slot) -> int:
    """Tokens up to the next place where a chunk has to end."""
    ahead = [mark - slot.fed for mark in slot.marks if mark > slot.fed]
    return min(ahead, default=slot.remaining)


def fill(batch: TokenBatch, parts: Sequence[Part]) -> None:
    """Put them all in `batch`; each part that ends its slot's tokens gets an output."""
    batch.clear()
    for part in parts:
        slot = part.slot
        assert slot.sequence is not None
        wanted = part.n == slot.remaining
        if part.n == 1:
            token = slot.tokens[slot.fed]
            index = batch.add(token, slot.fed, slot.sequence, output=wanted)
        else:
            run = memoryview(slot.tokens)[slot.fed : slot.fed + part.n]
            index = batch.extend(run, slot.fed, slot.sequence, output=wanted)
        part.output = index if wanted else None
