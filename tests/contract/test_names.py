"""Names that begin with _ are their module's own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import localllm


def borrowed(path: Path) -> Iterator[str]:
    """Private names that a file imports from another module of ours."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("localllm"):
            for one in node.names:
                if one.name.startswith("_") and not one.name.endswith("__"):
                    yield f"{path.name} imports {one.name} of {node.module}"


def test_no_module_imports_what_is_anothers_own() -> None:
    folder = Path(localllm.__file__).parent
    assert [said for path in sorted(folder.rglob("*.py")) for said in borrowed(path)] == []
