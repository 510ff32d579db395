"""Energy of the processor packages, by the counters that Intel and AMD call RAPL (Linux).

/sys/class/powercap/intel-rapl:N is a package on both vendors' processors. Its parts (cores,
memory) are below it and in its sum or beside it; "psys", the whole board, holds the packages
again; intel-rapl-mmio:N is the same package through another door. Only packages are read.
Since 2020 the counters are the root user's, for they leak secrets (CVE-2020-8694).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FOLDER = "sys/class/powercap"


@dataclass(frozen=True)
class Package:
    """One package's counter: microjoules, which start at 0 again after `range_uj`."""

    name: str
    counter: Path
    range_uj: int


@dataclass(frozen=True)
class Packages:
    """What can be read, and why nothing can (`refused`)."""

    packages: tuple[Package, ...]
    refused: str | None

    def read(self) -> tuple[int, ...] | None:
        """All counters now, None if there are none or one does not answer."""
        values = tuple(_number(package.counter) for package in self.packages)
        found = tuple(value for value in values if value is not None)
        return found if found and len(found) == len(values) else None

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Energy between two readings, less than one turn of a counter apart (an hour at
        100 W, fifteen minutes on small counters)."""
        pairs = zip(self.packages, before, after, strict=True)
        return sum(((b - a) % (p.range_uj + 1)) for p, a, b in pairs) / 1e6


def packages(root: Path) -> Packages:
    """The packages below `root`. Nothing is read twice: a package listed under two names
    counts once."""
    found: dict[str, Package] = {}
    denied = False
    for folder in sorted(root.joinpath(_FOLDER).glob("intel-rapl:*")):
        name = _text(folder / "name")
        if not re.fullmatch(r"intel-rapl:\d+", folder.name) or not name.startswith("package"):
            continue
        try:
            (folder / "energy_uj").read_bytes()
        except PermissionError:
            denied = True
            continue
        except OSError:
            continue
        span = _number(folder / "max_energy_range_uj")
        if span:
            found.setdefault(name, Package(name, folder / "energy_uj", span))
    if found and not denied:
        return Packages(tuple(found.values()), None)
    if denied:
        return Packages((), "only root may read the processor's energy counters here")
    return Packages((), "this system shows no energy counters of the processor")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None
