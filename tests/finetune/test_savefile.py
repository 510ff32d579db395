"""A file of tensors whose index says what is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")

import torch

from localllm.errors import DamagedFile
from localllm.finetune.training import savefile


def written(path: Path, monkeypatch: pytest.MonkeyPatch, index: Any) -> Path:
    """A file with one tensor of six numbers, whose index says `index` of it."""
    save = torch.save

    def lying(value: Any, file: Any) -> None:
        save({**value, "index": {"w": index}}, file)

    with monkeypatch.context() as patch, path.open("wb") as file:
        if index is not None:
            patch.setattr(savefile.torch, "save", lying)
        savefile.write_tensors(file, {"step": 3}, [("w", torch.arange(6.0).reshape(2, 3))])
    return path


def test_what_was_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value, tensors = savefile.read_tensors(written(tmp_path / "f", monkeypatch, None))
    assert value == {"step": 3}
    assert torch.equal(tensors["w"], torch.tensor([[0.0, 1, 2], [3, 4, 5]]))


@pytest.mark.parametrize(
    "index",
    [("load", (2, 3), 0), ("float99", (2, 3), 0), ("float32", (2, -3), 0),
     ("float32", (2, 3), -8), ("float32", (10**12,), 0), ("float32", (2, 3)), "w"],
)  # fmt: skip
def test_an_index_that_lies_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: Any
) -> None:
    with pytest.raises(DamagedFile):
        savefile.read_tensors(written(tmp_path / "f", monkeypatch, index))
