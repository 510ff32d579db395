"""A file tree that stands for a machine's /proc and /sys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Plant = Callable[[Mapping[str, str]], Path]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Write files (path -> text) below a fresh root and return the root. May be called again."""
    root = tmp_path / "machine"

    def write(files: Mapping[str, str]) -> Path:
        root.mkdir(exist_ok=True)
        for name, text in files.items():
            path = root / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return root

    return write
