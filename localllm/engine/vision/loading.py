"""Load a projector, and say why where llama.cpp could not."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from localllm.engine import native
from localllm.engine.calls import GaveUp, interruptible
from localllm.engine.load import is_damage, refusal
from localllm.engine.model import Model
from localllm.errors import DamagedFile, EngineError

# "clip_init: failed to load model '/x/y.gguf': load_hparams: unknown projector type: z"
_WHY = re.compile(r"failed to load model '.*?': (?:[\w()]+: )?(.+)", re.DOTALL)


def load_projector(mtmd: Any, model: Model, path: Path, params: Any) -> int:
    """The projector at `path` beside `model`, as a handle of mtmd's that the caller frees.

    Raises DamagedFile, EngineError for a file that is no projector of this model.
    """
    source = model.handle
    try:
        with native.capture() as log:
            handle: int | None = interruptible(
                lambda: mtmd.mtmd_init_from_file(os.fsencode(path), source, params),
                discard=lambda made: mtmd.mtmd_free(made) if made else None,
                expendable=True,
            )
    except GaveUp as error:
        raise native.failure(f"llama.cpp could not load {path.name}", error.why) from None
    if not handle:
        raise _refusal(path, log)
    return handle


def _refusal(path: Path, log: native.Capture) -> EngineError | DamagedFile:
    """mtmd says why in its first line, and in the last one only that it failed."""
    told = [match[1] for text in log.errors if (match := _WHY.search(text))]
    why = told[0] if told else ""
    if why.startswith("failed to load CLIP"):  # and what was wrong with the file before that
        return refusal(path, log)
    if is_damage(why):
        return DamagedFile(f"{path.name} is damaged: {why}", "localllm verify MODEL")
    if told:
        return native.failure(f"llama.cpp could not load {path.name}", why)
    if len(log.errors) == 1 and "Failed to load CLIP model" in log.errors[0]:
        return EngineError(f"{path.name} is no projector (mmproj)")
    return refusal(path, log)
