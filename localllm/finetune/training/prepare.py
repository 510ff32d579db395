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


def local_rank() -> int:
    """This process's number among those of this machine."""
    found = config.environment().get("LOCAL_RANK", "")
    return int(found) if found.isdigit() and launched()[1] > 1 else 0


def beside() -> int:
    """How many of the launched processes are on this machine."""
    found = config.environment().get("LOCAL_WORLD_SIZE", "")
    if found.isdigit() and found != "0":
        return int(found)
    return launched()[1]  # a launcher that does not say: one machine is what is safe to think


def asked_to_shard() -> bool:
    """Whether `accelerate launch` was told to part the model among the processes (FSDP)."""
    return _says("ACCELERATE_USE_FSDP")


def asked_for_deepspeed() -> bool:
    """Whether it was told to use DeepSpeed, which training here does not."""
    return _says("ACCELERATE_USE_DEEPSPEED")


def _says(name: str) -> bool:
    return config.environment().get(name, "").lower() == "true"


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
