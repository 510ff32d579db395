"""Which files of a data set's repository hold the rows of a split.

As the Hub tells it: by the `configs` of the data set's card where it has them, else by the
names of files and folders ("train-00000-of-00004.parquet", "validation/part.jsonl").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from localllm.errors import SourceNotFound

# The best first, where the same rows are there in several formats.
_SUFFIXES = (".jsonl", ".ndjson", ".parquet", ".csv", ".tsv", ".json", ".txt")
_PACKED = (".gz", ".bz2", ".xz", ".zst")
_NO_DATA = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")
_WORDS: Mapping[str, str] = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """Files in the order they are read, and which split they are, among `splits`."""

    files: tuple[str, ...]
    split: str | None
    splits: tuple[str, ...]


def is_data(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__")) for part in path.parts)
    return _suffix(name) in _SUFFIXES and path.name.lower() not in _NO_DATA and not hidden


def choose_files(names: Sequence[str], part: str | None, configs: Any = None) -> Chosen:
    """The files of `names` that `part` means. Raises SourceNotFound, saying what there is."""
    if not names:
        raise SourceNotFound("it has no JSON lines, Parquet, CSV, JSON or text files")
    if part is not None and (_suffix(part) in _SUFFIXES or "*" in part):
        found = _matching(names, [part])
        if not found:
            raise SourceNotFound(f"no file is called {part}; it has {_few(names)}")
        return Chosen(found, None, ())
    declared = dict(_declared(configs, names))
    if declared:
        return _of_configs(declared, part)
    return _of_splits(_guessed(names), part)


def _of_configs(declared: dict[str, dict[str, tuple[str, ...]]], part: str | None) -> Chosen:
    config, _, split = (part or "").partition("/")
    if config in declared:
        return _of_splits(declared[config], split or None)
    default = "default" if "default" in declared or len(declared) > 1 else next(iter(declared))
    if default not in declared:
        raise SourceNotFound(
            f"say which of its configurations: {_few(sorted(declared))}"
            + (f" ({part} is none)" if part else "")
        )
    return _of_splits(declared[default], part)


def _of_splits(splits: Mapping[str, tuple[str, ...]], part: str | None) -> Chosen:
    there = tuple(splits)
    wanted = part or ("train" if "train" in splits or len(there) != 1 else there[0])
    if wanted not in splits:
        raise SourceNotFound(f"it has no split {wanted}; it has {_few(there)}")
    return Chosen(_one_format(splits[wanted]), wanted, there)


def _declared(
    configs: Any, names: Sequence[str]
) -> Iterator[tuple[str, dict[str, tuple[str, ...]]]]:
    """Configurations of the card with the files of each of their splits."""
    for one in configs if isinstance(configs, list) else []:
        if not isinstance(one, Mapping):
            continue
        splits: dict[str, tuple[str, ...]] = {}
        given = one.get("data_files")
        for entry in given if isinstance(given, list) else [given]:
            if isinstance(entry, str):
                splits["train"] = (*splits.get("train", ()), *_matching(names, [entry]))
            elif isinstance(entry, Mapping) and isinstance(entry.get("split"), str):
                paths = entry.get("path")
                patterns = paths if isinstance(paths, list) else [paths]
                splits[entry["split"]] = _matching(
                    names, [p for p in patterns if isinstance(p, str)]
                )
        splits = {name: files for name, files in splits.items() if files}
        if splits:
            yield str(one.get("config_name") or "default"), splits


def _guessed(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Splits by the words in file names, else of folders; without any all is for training."""
    splits: dict[str, list[str]] = {}
    for name in sorted(names):
        splits.setdefault(_split_of(name) or "", []).append(name)
    if set(splits) == {""}:
        return {"train": tuple(splits[""])}
    splits.pop("", None)
    return {split: tuple(files) for split, files in splits.items()}


def _split_of(name: str) -> str | None:
    for part in reversed(PurePosixPath(name).parts):
        words = re.split(r"[^a-z]+", part.lower())
        if found := next((_WORDS[word] for word in words if word in _WORDS), None):
            return found
    return None


def _one_format(files: Sequence[str]) -> tuple[str, ...]:
    """Of rows that are there in several formats, one."""
    counts = Counter(map(_suffix, files))
    best = min(counts, key=lambda suffix: (-counts[suffix], _SUFFIXES.index(suffix)))
    return tuple(name for name in files if _suffix(name) == best)


def _matching(names: Iterable[str], patterns: Sequence[str]) -> tuple[str, ...]:
    wanted = [p.removeprefix("./").replace("**/", "*") for p in patterns]
    return tuple(n for n in sorted(names) if any(n == p or fnmatchcase(n, p) for p in wanted))


def _suffix(name: str) -> str:
    suffixes = [s.lower() for s in PurePosixPath(name).suffixes]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
