"""Names of split files: `big-00001-of-00005.gguf`, `model-00002-of-00003.safetensors`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PATTERN = re.compile(r"(?s)(.*)-(\d{5})-of-(\d{5})(\.gguf|\.safetensors)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ShardName:
    """One shard's file name, taken apart. `number` counts from 1, as in the name."""

    stem: str
    number: int
    count: int
    suffix: str

    def __str__(self) -> str:
        return f"{self.stem}-{self.number:05d}-of-{self.count:05d}{self.suffix}"

    @property
    def family(self) -> tuple[str, ...]:
        """Every file name of the split, in order."""
        return tuple(
            str(ShardName(self.stem, i, self.count, self.suffix)) for i in range(1, self.count + 1)
        )


def shard_name(name: str) -> ShardName | None:
    """`name` as a shard of a split, None for a file that stands alone.

    >>> shard_name("big-00002-of-00005.gguf")
    ShardName(stem='big', number=2, count=5, suffix='.gguf')
    """
    match = _PATTERN.fullmatch(name)
    if match is None:
        return None
    stem, number, count, suffix = match[1], int(match[2]), int(match[3]), match[4]
    return ShardName(stem, number, count, suffix) if 1 <= number <= count else None


def shard_family(name: str) -> tuple[str, ...]:
    """All file names of the split that `name` belongs to; `(name,)` if it stands alone."""
    shard = shard_name(name)
    return (name,) if shard is None else shard.family
