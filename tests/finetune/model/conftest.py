"""Every family's tiny model and its GGUF, made once a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.finetune.model.families import Tiny


@dataclass(frozen=True)
class Made:
    """`module` is transformers' own, from which `path` was written in F16."""

    tiny: Tiny
    module: Any
    path: Path


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from more, and waiting for a second thread costs."""
    torch = pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


Make = Callable[[int], Made]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The model of `TINY[i]`."""
    pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")
    pytest.importorskip("transformers", reason="the extra `finetune` is not installed")
    from tests.finetune.model.families import TINY, gguf_of, hf_model

    folder = tmp_path_factory.mktemp("families")

    @cache
    def make(i: int) -> Made:
        module = hf_model(TINY[i], seed=i)
        return Made(TINY[i], module, gguf_of(module, TINY[i], folder / f"{i}.gguf"))

    return make
