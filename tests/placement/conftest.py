"""Real shapes as sparse files, and machines to place them on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localllm.engine.repack import repacks
from localllm.engine.reserve import reserve_here
from localllm.placement import Machine, Target
from tests.support.real_hybrids import HYBRIDS
from tests.support.real_shapes import SHAPES, RealShape, write

GIB = 1 << 30
ALL_SHAPES: dict[str, Callable[..., RealShape]] = {**SHAPES, **HYBRIDS}

Written = Callable[..., Path]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """`written("llama3.1-8b", mix="Q8_0")`: the sparse file, made once a session."""
    made: dict[str, Path] = {}

    def write_once(name: str, **changes: Any) -> Path:
        key = f"{name} {sorted(changes.items())}"
        if key not in made:
            made[key] = write(ALL_SHAPES[name](**changes), tmp_path_factory.mktemp("shape"))
        return made[key]

    return write_once


def cpu_only(available_bytes: int = 64 * GIB) -> Target:
    """This machine's CPU, with memory to spare."""
    return Target(
        gpus=(),
        host_available_bytes=available_bytes,
        host_total_bytes=available_bytes,
        host_bandwidth_bytes_s=20_000_000_000,
        host_threads=2,
        here=True,
    )


def this_llama(path: Path) -> Machine:
    """llama.cpp asked in this process: the headers here are our own, and a child takes 0.3 s."""
    return Machine(lambda load, context: reserve_here(path, load, context), repacks)
