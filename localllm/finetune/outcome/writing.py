"""What was learned as files that llama.cpp runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from localllm.errors import LocalLLMError
from localllm.finetune.building import Built
from localllm.finetune.model.adapter import LoraPair, adapter_gguf
from localllm.finetune.model.fold import fold_lora
from localllm.finetune.model.save import help_save, save_gguf
from localllm.finetune.training.whole import whole


def pairs_of(built: Built) -> dict[str, LoraPair]:
    """The adapters by the path of their layer, with the scale that was trained with. Of a
    sharded model all processes must ask."""
    assert built.adapters is not None
    return {
        name: LoraPair(
            whole(layer.a),
            whole(layer.b),
            scale=layer.scale,
            magnitude=None if layer.magnitude is None else whole(layer.magnitude),
        )
        for name, layer in built.adapters.layers.items()
    }


def write_adapter(built: Built, path: Path, metadata: Mapping[str, str]) -> None:
    """The adapters as a GGUF adapter. Raises DiskFull, OSError; nothing is left then."""
    assert built.adapters is not None
    alpha = built.adapters.options.llama_alpha
    _whole(path, lambda: adapter_gguf(pairs_of(built), alpha, built.loaded, path, metadata))


def help_write(built: Built) -> None:
    """What the processes beside the one that writes do while it does."""
    if built.adapters is not None:
        pairs_of(built)
    else:
        help_save(built.loaded)


def write_model(
    built: Built, path: Path, metadata: Mapping[str, str], advance: Callable[[int], None]
) -> None:
    """The whole model in F16: what was trained in full, or a DoRA put into its base, which no
    adapter of llama.cpp can hold. Raises DiskFull, OSError."""
    if built.adapters is not None:
        fold_lora(built.loaded, pairs_of(built), built.adapters.options.own_alpha)
    _whole(
        path,
        lambda: save_gguf(built.loaded, path, type="F16", metadata=metadata, advance=advance),
    )


def _whole(path: Path, write: Callable[[], None]) -> None:
    from localllm.ui.oserrors import translate

    try:
        write()
    except OSError as error:
        path.unlink(missing_ok=True)
        found = translate(error)
        hint = "make room (localllm prune), then run the same command with --resume"
        raise type(found)(found.message, hint) from None
    except LocalLLMError:
        path.unlink(missing_ok=True)
        raise
