"""GGUF files and numbered parts of them, told by name; checksums shipped beside them.

    model.gguf                        a whole file
    model.gguf.part00, .part-001      parts, counted from 0 or 1
    model.gguf.00, model.gguf.001     the same
    model.gguf.part-1-of-4            the same, and the count is known
    model.gguf.aa, model.gguf.partab  what `split` writes (up to bz: .gz or .md are no parts)

Splits that llama.cpp makes (`model-00001-of-00003.gguf`) are whole files each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from localllm.errors import ChecksumMismatch, DamagedFile

_PART = re.compile(
    r"(?P<file>.+\.gguf)[._-]?(?:part|chunk|p)?[._-]?"
    r"(?:(?P<number>\d{1,5})(?:[._-]?of[._-]?(?P<count>\d{1,5}))?|(?P<letters>[ab][a-z]))",
    re.IGNORECASE,
)
_SUM_LINE = re.compile(r"\\?([0-9a-fA-F]{64})(?:[ \t]+\*?(\S.*?))?\s*")
_BSD_SUM_LINE = re.compile(r"SHA2?-?256 ?\((.+)\) ?= ?([0-9a-fA-F]{64})\s*")
_SUMS_FILE = re.compile(r"(?:.*\.sha256(?:sums?)?|.*sha256sums?(?:\.txt)?|checksums?\.txt)", re.I)
_HEX = re.compile(r"[0-9a-fA-F]{64}")
CHECKSUM_LIMIT_BYTES = 1 << 20
_JSON_LIMIT_DEPTH = 8


@dataclass(frozen=True)
class PartName:
    """What a file name says. `number` is None for a whole GGUF, `count` where unknown."""

    file: str
    number: int | None = None
    count: int | None = None


def part_name(path: str) -> PartName | None:
    """Read a member's name, None where it is no GGUF and no part of one."""
    name = PurePosixPath(path.replace("\\", "/")).name
    if name.lower().endswith(".gguf"):
        return PartName(name)
    match = _PART.fullmatch(name)
    if match is None:
        return None
    if letters := match["letters"]:
        first, second = (ord(c) - ord("a") for c in letters.lower())
        return PartName(match["file"], first * 26 + second)
    return PartName(match["file"], int(match["number"]), int(match["count"] or 0) or None)


def check_numbers(file: str, parts: Iterable[PartName]) -> None:
    """Raises DamagedFile, naming them, where parts of `file` are missing or there twice."""
    parts = list(parts)
    numbers = sorted(part.number for part in parts if part.number is not None)
    first = min(1, numbers[0])
    counts = {part.count for part in parts if part.count is not None}
    if len(counts) > 1:
        raise DamagedFile(f"the parts of {file} do not agree on how many there are")
    end = first + counts.pop() if counts else numbers[-1] + 1
    if end - first > 10_000 or len(numbers) != len(set(numbers)) or numbers[-1] >= end:
        raise DamagedFile(f"the parts of {file} are numbered wrongly")
    if missing := sorted(set(range(first, end)) - set(numbers)):
        shown = ", ".join(str(n) for n in missing[:10]) + (", ..." if len(missing) > 10 else "")
        raise DamagedFile(f"{file} is not complete: no part {shown}")


def is_checksum_file(path: str) -> bool:
    """True for SHA256SUMS, model.gguf.sha256, checksums.txt and small JSON manifests."""
    name = PurePosixPath(path).name
    return bool(_SUMS_FILE.fullmatch(name)) or name.lower().endswith(".json")


def shipped_sums(path: str, body: bytes) -> dict[str, str]:
    """sha256 (lower-case hex) by file name from one checksum file; {} where it has none."""
    text = body.decode("utf-8", "replace")
    if path.lower().endswith(".json"):
        try:
            return dict(_json_sums(json.loads(text), 0))
        except (ValueError, RecursionError):
            return {}
    sums = {}
    for line in text.splitlines():
        if match := _BSD_SUM_LINE.fullmatch(line):
            sums[_base(match[1])] = match[2].lower()
        elif match := _SUM_LINE.fullmatch(line):
            own = re.sub(r"\.sha256(sums?)?$", "", PurePosixPath(path).name, flags=re.I)
            sums[_base(match[2] or own)] = match[1].lower()
    return sums


def _json_sums(value: Any, depth: int) -> Iterator[tuple[str, str]]:
    """{"model.gguf": HEX}, {"model.gguf": {"sha256": HEX}}, [{"name": ..., "sha256": HEX}]."""
    if depth > _JSON_LIMIT_DEPTH:
        return
    if isinstance(value, list):
        for item in value:
            yield from _json_sums(item, depth + 1)
    if not isinstance(value, Mapping):
        return
    name = next(
        (v for k in ("file", "filename", "name", "path") if isinstance(v := value.get(k), str)),
        None,
    )
    if name is not None and _is_sum(value.get("sha256")):
        yield _base(name), value["sha256"].lower()
    for key, item in value.items():
        if _is_sum(item) and key != "sha256":
            yield _base(str(key)), item.lower()
        elif isinstance(item, Mapping) and _is_sum(item.get("sha256")) and "." in str(key):
            yield _base(str(key)), item["sha256"].lower()
        elif isinstance(item, (list, Mapping)):
            yield from _json_sums(item, depth + 1)


def _is_sum(value: Any) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


def _base(path: str) -> str:
    return PurePosixPath(path.strip().replace("\\", "/")).name


def agreed(name: str, digests: Iterable[str | None]) -> str | None:
    """The one sha256 that all sources of it give, None where none gives one.

    Raises ChecksumMismatch where two differ: the distribution contradicts itself.
    """
    found = {digest for digest in digests if digest is not None}
    if len(found) > 1:
        raise ChecksumMismatch(f"the distribution gives two different sha256 for {name}")
    return found.pop() if found else None
