"""The base's figures in a file while several models are compared with it, so that it is computed
once. The file outlives an interrupt, and the next command goes on with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from localllm.library.quality.vocabulary import vocabulary_of
from localllm.quantize.measured.measurer import Measurer
from localllm.registry import Registry
from localllm.ui import Bytes

# Of a token of text and of the vocabulary: 35 MB for 1,000 tokens at 262k (engine.quality.file)
# is 0.134 bytes.
_BYTES = 0.15
_LEAST_TOKEN_BYTES = 2  # of text; a token holds three to four in most languages


@contextmanager
def base_figures(
    measurer: Measurer,
    registry: Registry,
    n_models: int,
    note: Callable[[str], None],
    spare_bytes: int = 0,
) -> Iterator[None]:
    """Let `measurer` keep the base's figures in a file below the home, where that saves anything
    and the disk has room for it and `spare_bytes` more.

    Removed at the end; it stays where the block is interrupted, and `localllm prune` finds it.
    """
    if measurer.base_problem is not None or n_models < 2:
        yield
        return
    key = f"base figures {json.dumps(asdict(measurer.conditions()), sort_keys=True)}"
    with registry.lock(key, lambda: note("another process compares with the same source")):
        path = registry.partial(key, "quality-base")
        for left in path.parent.glob(f"{path.name}.*.part"):  # by a killed process
            left.unlink(missing_ok=True)
        needed = 0 if path.exists() else figures_bytes(measurer)
        if shutil.disk_usage(path.parent).free < needed + spare_bytes:
            note(f"no room for the source's figures ({Bytes(needed)}): computed for each model")
            yield
            return
        measurer.cache = path
        yield
        path.unlink(missing_ok=True)


def figures_bytes(measurer: Measurer) -> int:
    """About what the file takes, rather too much."""
    tokens = len(measurer.text.content.encode()) // _LEAST_TOKEN_BYTES
    if measurer.options.chunks is not None:
        tokens = min(tokens, measurer.options.chunks * measurer.options.n_ctx)
    return int(_BYTES * tokens * len(vocabulary_of(measurer.base).tokens))
