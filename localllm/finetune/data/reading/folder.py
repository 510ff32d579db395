"""Which files of a folder are data."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import LocalLLMError, UsageProblem
from localllm.finetune.data.reading.packed import suffix_of

ROW_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
# Texts as they are meant to be read; what needs a renderer first (HTML, PDF, Word) is none.
TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".org", ".tex", ".log")
CODE_SUFFIXES = (
    ".py", ".pyi", ".js", ".jsx", ".mjs", ".ts", ".tsx", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu",
    ".rs", ".go", ".java", ".kt", ".scala", ".swift", ".rb", ".php", ".pl", ".lua", ".r", ".jl",
    ".hs", ".ml", ".ex", ".exs", ".erl", ".clj", ".cs", ".fs", ".sql", ".sh", ".bash", ".ps1",
    ".yaml", ".yml", ".toml", ".ini", ".cmake", ".dart", ".zig", ".nim", ".v", ".vhd", ".proto",
)  # fmt: skip
_SIDE_FILES = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")


@dataclass(frozen=True)
class Folder:
    """`files` in the order they are read. `left_out` counts files by suffix that are no data."""

    files: tuple[Path, ...]
    holds_rows: bool
    left_out: dict[str, int]


def read_folder(folder: Path) -> Folder:
    """Files of rows (JSON lines, tables, Parquet), or documents; hidden ones are left out.

    Raises UsageProblem where there are neither, or both.
    """
    rows: list[Path] = []
    texts: list[Path] = []
    left: Counter[str] = Counter()
    for path in _walk(folder):
        suffix = suffix_of(path)
        if suffix in ROW_SUFFIXES and path.name not in _SIDE_FILES:
            rows.append(path)
        elif suffix in TEXT_SUFFIXES or suffix in CODE_SUFFIXES:
            texts.append(path)
        else:
            left[suffix or "no suffix"] += 1
    if rows and texts and all(path.name.lower().startswith("readme") for path in texts):
        left.update(suffix_of(path) for path in texts)  # a data set's own description
        texts = []
    if rows and texts:
        raise UsageProblem(
            f"{folder} holds rows ({rows[0].name}) and documents ({texts[0].name})",
            "name the files, or a folder of one kind",
        )
    if not rows and not texts:
        seen = f": only {_counts(left)}" if left else ""
        raise UsageProblem(f"{folder} holds no data{seen}", "JSON lines, CSV, Parquet or texts")
    return Folder(tuple(rows or texts), bool(rows), dict(left))


def _walk(folder: Path) -> Iterator[Path]:
    """Files by name, whatever order the disk gives them in; links to folders are not followed."""

    def fail(error: OSError) -> None:
        raise LocalLLMError(f"{error.filename} cannot be read: {error.strerror}")

    for root, names, files in os.walk(folder, onerror=fail):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(root) / name


def _counts(left: Counter[str]) -> str:
    return ", ".join(f"{count} {suffix}" for suffix, count in left.most_common(5))
