"""Between a file that is written and a model that is registered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from localllm import __version__
from localllm.errors import EngineError, LocalLLMError
from localllm.registry import Lineage


def check_loads(path: Path, name: str) -> None:
    """Raise EngineError where llama.cpp does not take the file: every tensor and shape is looked
    at, no weight is read. About a second."""
    from localllm.engine.options import ContextOptions, LoadOptions
    from localllm.engine.reserve import reserve

    small = ContextOptions(n_ctx=256, n_batch=32, n_ubatch=32)
    try:
        reserve(path, LoadOptions(n_gpu_layers=0), small)
    except LocalLLMError as error:
        why = error.message.replace(path.name, name)
        raise EngineError(f"llama.cpp does not take the merged model: {why}") from None


def merged_lineage(
    parents: Sequence[tuple[str, str | None]],
    command: str,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, str],
    llama_commit: str,
) -> Lineage:
    """All parents in order, the method with its parameters, and the programs."""
    versions = {"localllm": __version__}
    if llama_commit:
        versions["llama.cpp"] = llama_commit
    return Lineage("merge", tuple(parents), command, dict(parameters), dict(inputs), versions)
