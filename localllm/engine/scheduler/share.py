"""Who computes how much in a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localllm.engine.batching import TokenBatch
from localllm.engine.build import devices
from localllm.engine.context import Context
from localllm.engine.scheduler.rows import RowTimes
from localllm.engine.scheduler.scores import fill_scored
from localllm.engine.scheduler.slot import AdapterKey, Slot
from localllm.engine.vision.prompt import Run

# Steps that sequences with one set of adapters have before those with another have theirs:
# changing them makes llama.cpp build its graph anew.
_GROUP_STEPS = 8
_TILE = 64  # GGML_FA_TILE_Q
_APART_CELLS = 512  # of those who have their next token; see _better_apart


@dataclass
class Part:
    """`n` tokens of one slot; `output` is where the last one's logits are, if wanted; those of all
    of them, where a prompt is scored, begin at `first`. An `image` is a step of its own."""

    slot: Slot
    n: int
    output: int | None = None
    image: Run | None = None
    first: int | None = None

    @property
    def n_cells(self) -> int:
        return self.n if self.image is None else self.image.n_cells


class Turns:
    """Everyone's next token first; prompts take turns for the rest.

    A prompt whose turn it is takes all the room there is, and then goes to the end of the line:
    short prompts are done in one turn, and a long one does not keep them waiting.

    An image has its turn in the same line, and the step to itself: embeddings and tokens do not
    go into one batch. Who could have computed meanwhile then has as much time before the next one
    (and one step at least), since what an image takes to encode no number of cells tells.

    Where attention is `tiled`, prompts and many next tokens take steps in turn, prompts first: in
    one batch, the tile that holds the next tokens would pass over the cells of all of them.
    """

    def __init__(
        self, limit: int, most_singles: int, rows: RowTimes | None = None, *, tiled: bool = False
    ) -> None:
        """`limit` tokens a step; without a prompt among them, at most `most_singles`, and as many
        as `rows` says."""
        self.limit = limit
        self._most_singles = most_singles
        self._rows = rows
        self._tiled = tiled
        self._prompts_had_theirs = False  # of two steps in turn
        self._n_singles = 0
        self._line: list[Slot] = []  # prompts, whose turn is next first
        self._key: AdapterKey = ()
        self._steps = 0
        self._owed_s = 0.0  # to the others, for the last image

    def took(self, seconds: float, *, image: bool) -> None:
        """The step that `parts` made took so long."""
        self._owed_s = seconds if image else self._owed_s - seconds

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
        prompts = {slot for slot in group if slot.remaining > 1}
        self._line = [slot for slot in self._line if not slot.ended and slot.remaining > 1]
        in_line = set(self._line)
        self._line += [slot for slot in group if slot in prompts and slot not in in_line]
        image = self._image(group)
        if image is not None:
            return [image]
        ready = [slot for slot in group if slot.remaining == 1]
        waiting = [slot for slot in self._line if slot in prompts and slot.image is None]
        apart = self._tiled and _better_apart(ready, waiting)
        self._prompts_had_theirs = apart and not self._prompts_had_theirs
        if self._prompts_had_theirs:
            ready = []
        elif apart:
            waiting = []
        parts = [Part(slot, 1) for slot in self._singles(ready, alone=not waiting)]
        room -= len(parts)
        for slot in waiting:
            if room == 0:
                break
            n = min(slot.remaining, room, _to_mark(slot))
            parts.append(Part(slot, n))
            room -= n
            self._line.remove(slot)
            if n < slot.remaining:
                self._line.append(slot)
        return parts

    def _image(self, group: Sequence[Slot]) -> Part | None:
        """The next in line, if that is an image whose turn it is."""
        members = set(group)
        first = next((slot for slot in self._line if slot in members), None)
        image = first.image if first is not None else None
        if first is None or image is None:
            return None
        if self._owed_s > 0 and any(slot.image is None for slot in group):
            return None
        self._line.remove(first)
        self._line.append(first)
        return Part(first, image.n_pos, image=image)

    def _singles(self, ready: list[Slot], *, alone: bool) -> list[Slot]:
        """Who has its next token now: all, or a fair share of them."""
        n = min(self.limit, len(ready))
        if ready and alone:  # nobody's prompt
            n = min(n, self._most_singles)
            n = n if self._rows is None else self._rows.best(n)
        ready = sorted(ready, key=lambda slot: slot.stepped)[:n]
        for slot in ready:  # one after another: who was taken last is last in line the next time
            self._n_singles += 1
            slot.stepped = self._n_singles
        # In order of sequence: llama.cpp computes those with consecutive numbers together where
        # each has a stream of its own.
        return sorted(ready, key=lambda slot: slot.sequence or 0)


def tokens_a_step(context: Context, chunk: int | None) -> int:
    """The most tokens of a batch: as said, by default two micro-batches.

    Of models with sliding windows one micro-batch at most. llama.cpp tries the places of all
    micro-batches of a batch before it computes the first (llama_kv_cache::prepare). There the
    later ones drop what lies behind the windows by then, and not all of it comes back: the first
    ones, whose windows are further back, would miss it. Where sequences lie among each other in
    one pool that made wrong answers.
    """
    most = min(chunk or 2 * context.n_ubatch, context.n_batch)
    if context.sequences.kind == "window":
        return min(most, context.n_ubatch)
    return max(most, context.n_seq_max)


def tiled_attention(context: Context) -> bool:
    """Whether batches of 64 tokens and more are slower than those of fewer, each for itself.

    From 64 on, flash attention on the CPU works in tiles (GGML_FA_TILE_Q in ggml-cpu), each of
    which passes over all cells that any of its tokens sees, while smaller batches skip those of
    other sequences.
    """
    options = context.options
    tiled = options.type_k.lower() == options.type_v.lower() in ("f16", "f32")
    on_gpu = context.model.options.n_gpu_layers != 0 and any(one.offloads for one in devices())
    return not on_gpu and tiled and options.kv_unified and options.flash_attn != "off"


def most_singles(context: Context) -> int:
    """How many sequences had best have their next token in one batch: where attention is tiled, 64
    took 2.4 times as long as 63 on Gemma 3 270M with 100 cells each, and 63 took 1.7 times as long
    as 32."""
    return _TILE - 1 if tiled_attention(context) else context.n_seq_max


def _better_apart(singles: Sequence[Slot], prompts: Sequence[Slot]) -> bool:
    """Whether a step for each is faster than one for both: 15 sequences of 130 cells and a prompt
    of 105 tokens took 629 against 710 ms on Gemma 3 270M. Prompts among each other share few
    cells, and so do a few sequences: their tile costs less than another pass over the weights."""
    n_rows = len(singles) + sum(slot.remaining for slot in prompts)
    if not singles or not prompts or n_rows < _TILE:
        return False
    return sum(slot.cells(slot.fed) for slot in singles) >= _APART_CELLS


def _to_mark(slot: Slot) -> int:
    """Tokens up to the next place where a chunk has to end."""
    ahead = [mark - slot.fed for mark in slot.marks if mark > slot.fed]
    if slot.media is not None and (image := slot.media.next_image(slot.fed)) is not None:
        ahead.append(image - slot.fed)
    return min(ahead, default=slot.remaining)


def fill(batch: TokenBatch, parts: Sequence[Part]) -> None:
    """Put them all in `batch`; each part that ends its slot's tokens gets an output."""
    batch.clear()
    for part in parts:
        slot = part.slot
        assert slot.sequence is not None
        wanted = part.n == slot.remaining
        if slot.to_score:
            index = fill_scored(batch, part)
        elif part.n == 1:
            token = slot.tokens[slot.fed]
            index = batch.add(token, slot.fed, slot.sequence, output=wanted)
        else:
            run = memoryview(slot.tokens)[slot.fed : slot.fed + part.n]
            index = batch.extend(run, slot.fed, slot.sequence, output=wanted)
        part.output = index if wanted else None
