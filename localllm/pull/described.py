"""What has arrived, described from headers: before it has its final names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.errors import DamagedFile
from localllm.library.describe import Description, of_header
from localllm.refs import ModelFormat
from localllm.registry import Staged

if TYPE_CHECKING:
    from localllm.formats import GGUFView, SafetensorsHeader

_CONFIG_LIMIT_BYTES = 16 << 20


def describe_staged(
    header: GGUFView | None, staged: Sequence[Staged], format: ModelFormat
) -> Description:
    """The facts of a model from its GGUF `header`, or else from its safetensors headers and
    config. Raises DamagedFile, so that nothing is registered that nobody can read."""
    if header is not None:
        return of_header(header)
    from localllm.formats.safetensors.header import dtype_bytes

    weights = [s for s in staged if s.role in ("weights", "adapter")]
    tensors = [t for s in weights for t in _safetensors(s).tensors.values()]
    config = next((_object(s.path) for s in staged if s.name == "config.json"), {})
    text = config.get("text_config")  # of a model that sees or hears
    n_ctx = (text if isinstance(text, dict) else config).get("max_position_embeddings")
    return Description(
        format=format,
        architecture=_architecture(config),
        file_type=next(iter(dtype_bytes(tensors)), None),
        n_params=sum(t.n_elements for t in tensors),
        n_ctx_train=n_ctx if isinstance(n_ctx, int) else None,
        title=None,
        license=None,
    )


def _safetensors(staged: Staged) -> SafetensorsHeader:
    from localllm.formats import read_safetensors

    try:
        return read_safetensors(staged.path)
    except DamagedFile as e:  # which names it as it lies in `partial/`
        raise DamagedFile(e.message.replace(staged.path.name, staged.name), e.hint) from None


def _architecture(config: Mapping[str, Any]) -> str | None:
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    named = config.get("model_type") or first
    return named if isinstance(named, str) else None


def _object(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_CONFIG_LIMIT_BYTES))
    except (ValueError, RecursionError):
        raise DamagedFile("config.json is not valid JSON") from None
    if not isinstance(found, dict):
        raise DamagedFile("config.json is not a JSON object")
    return found
