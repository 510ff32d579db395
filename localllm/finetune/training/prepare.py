"""torch as this program wants it: its threads, its waiting, its silence."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec

from localllm import config
from localllm.errors import MissingExtra

_NEEDED = ("torch", "transformers")


def require_torch() -> None:
    """Raise MissingExtra where what training needs is not installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"fine-tuning needs {' and '.join(missing)}", 'pip install "localllm[finetune]"'
        )


def launched() -> tuple[int, int]:
    """(rank, processes) as torchrun says in the environment; (0, 1) without it."""
    env = config.environment()
    try:
        size = int(env.get("WORLD_SIZE", "1"))
        return (int(env.get("RANK", "0")), size) if size > 1 else (0, 1)
    except ValueError:
        return 0, 1


def asked_to_shard() -> bool:
    """Whether `accelerate launch` was told to part the model among the processes (FSDP,
    DeepSpeed), which training here does not do."""
    env = config.environment()
    keys = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    return any(env.get(key, "").lower() == "true" for key in keys)


@cache
def prepare_torch(n_threads: int) -> None:
    """Set up torch for `n_threads`. Must run before anything imports torch.

    Threads that wait give their core away: on a shared machine spinning made small products
    six times slower (measured). Warnings of libraries are not for the user.
    """
    require_torch()
    config.set_environment_default("OMP_WAIT_POLICY", "PASSIVE")
    config.set_environment_default("TORCH_CPP_LOG_LEVEL", "ERROR")
    config.set_environment_default("TRANSFORMERS_VERBOSITY", "error")
    config.set_environment_default("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    config.set_environment_default("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", module=r"(torch|transformers)(\..*)?")
    import torch

    torch.set_num_threads(n_threads)
