"""An image's step: encoded by the projector, then computed into its sequence."""

from __future__ import annotations

import time

from localllm.engine.context import Context
from localllm.engine.scheduler.slot import Slot
from localllm.engine.vision.prompt import Run


def see(context: Context, slot: Slot, image: Run, n_batch: int) -> bool:
    """Put `image` into the sequence of `slot`, `n_batch` cells at once where they may be computed
    apart. False where its request was cancelled, or too late, by the time it was encoded.

    The encoder is not interrupted; the rest is, by Context.abort. Raises as Vision.encode and
    Vision.decode do; a part of the image may then be in memory.
    """
    media, sequence = slot.media, slot.sequence
    assert media is not None and sequence is not None
    embeddings = media.vision.encode(image)
    if slot.job.cancelled or slot.job.overdue(time.perf_counter()):
        return False
    media.vision.decode(context, image, embeddings, sequence, n_batch)
    return True
