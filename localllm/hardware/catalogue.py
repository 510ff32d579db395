"""GPUs that are not here: specifications by name, and how drivers' names map onto them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from localllm.errors import UsageProblem
from localllm.hardware.gpu_table import ROWS
from localllm.hardware.machine import Vendor
from localllm.hardware.macos import metal_working_set_bytes

GIB = 1 << 30
MIB = 1 << 20
MAX_COUNT = 16  # llama.cpp's GGML_CUDA_MAX_DEVICES and llama_max_devices

# A driver keeps memory for itself (page tables, firmware, ECC) and the first context of a
# process costs more. Seen free on idle cards by llama.cpp: RTX 3090 23982 of 24576 MiB,
# RTX 4090 23999 of 24564, H100 80565 of 81559, RX 7900 XTX 23737 of 24560, RTX 5090 31600
# of 32607; on Windows another half GiB less.
OVERHEAD_FRACTION = 50
OVERHEAD_BYTES = 256 * MIB

MAKERS = {"nvidia", "geforce", "tesla", "amd", "radeon", "instinct", "intel", "apple"}
FILLERS = MAKERS | {"graphics", "gpu", "generation", "blackwell", "r", "tm", "processor"}


@dataclass(frozen=True)
class GpuModel:
    """One GPU on paper: bytes, and bytes a second of published peak bandwidth.

    `vram_bytes` is what the box says (its GB are GiB). For `unified` devices it is the whole
    machine's memory.
    """

    name: str
    vendor: Vendor
    vram_bytes: int
    bandwidth_bytes_s: int
    unified: bool
    ecc: bool

    @property
    def driver_total_bytes(self) -> int:
        """What the driver reports as total: ECC in GDDR takes a sixteenth."""
        return self.vram_bytes * 15 // 16 if self.ecc else self.vram_bytes

    @property
    def usable_bytes(self) -> int:
        """What a process finds free on an idle, headless machine: a model, right to about 2 %."""
        if self.vendor == "apple":
            return metal_working_set_bytes(self.vram_bytes)
        if self.unified:  # shared with the system and the program itself
            return self.vram_bytes * 3 // 4
        total = self.driver_total_bytes
        return total - total // OVERHEAD_FRACTION - OVERHEAD_BYTES


@dataclass(frozen=True)
class _Entry:
    key: str  # the name as `_key` gives it
    aliases: frozenset[str]
    model: GpuModel


def parse_gpu_spec(text: str) -> tuple[GpuModel, int]:
    """`RTX 4060 Ti 16 GB:3` -> (model, 3): a name, its memory where there are several, a count.

    Case, spacing and makers' prefixes do not matter ("nvidia geforce rtx4090", "4090"). The
    count may be written `:3` or `x3`; without one it is 1.
    Raises UsageProblem listing the choices when the name fits several GPUs, and near names
    when it fits none.
    """
    name, count = _split_count(text)
    entries, size_gib = _named(name)
    if not entries:
        near = _near(_split_size(name)[1])
        hint = f"did you mean {_quoted(near)}?" if near else "give the memory instead: --vram 24GiB"
        raise UsageProblem(f"no GPU called {name.strip()!r} is in the catalogue", hint)
    fitting = [e for e in entries if size_gib is None or e.model.vram_bytes == size_gib * GIB]
    if len(fitting) != 1:
        names = _quoted([e.model.name for e in (fitting or entries)])
        problem = (
            "is sold with several memory sizes" if fitting else f"has no {size_gib} GB variant"
        )
        family_name = entries[0].model.name.rsplit(" ", 2)[0]
        raise UsageProblem(f"{family_name} {problem}", f"choose {names}")
    return fitting[0].model, count


def family(name: str) -> str | None:
    """What all sizes and drivers' names of one GPU have in common; None for an unknown GPU."""
    _, key = _split_size(name)
    return next((e.key for e in _entries() if key == e.key or key in e.aliases), None)


def match_gpu(name: str, total_bytes: int | None) -> GpuModel | None:
    """The catalogue's row for a name that a driver reports; None when it has none or several."""
    found = candidates(name, total_bytes)
    return found[0] if len(found) == 1 else None


def candidates(name: str, total_bytes: int | None) -> tuple[GpuModel, ...]:
    """All rows that a driver's name can mean.

    `total_bytes` tells the variants of one name apart: a driver's total is the nominal size
    less at most a tenth, on Apple silicon what Metal allows. It rules out nothing when it fits
    no variant.
    """
    _, key = _split_size(name)
    named = tuple(e.model for e in _entries() if key == e.key or key in e.aliases)
    if total_bytes is None or len(named) < 2:
        return named
    fitting = tuple(m for m in named if _reports(m, total_bytes))
    return fitting or named


def _reports(model: GpuModel, total_bytes: int) -> bool:
    if model.vendor == "apple":
        return total_bytes == model.usable_bytes
    return model.vram_bytes * 9 // 10 <= total_bytes <= model.vram_bytes


def catalogue() -> tuple[GpuModel, ...]:
    """Every GPU that `parse_gpu_spec` knows."""
    return tuple(e.model for e in _entries())


def parse_size(text: str) -> int:
    """`24GiB`, `24G`, `16 GB`, `8192MiB`, `1.5T` -> bytes.

    Memory is meant, and memory is counted in powers of two whatever the label says: GB, G and
    GiB are all 2^30. A number without a unit is taken as bytes from 1 MiB up.
    Raises UsageProblem for anything else.
    """
    found = re.fullmatch(
        r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*(?:([kmgt])(?:i?b)?|b)?\s*", text, re.IGNORECASE
    )
    if not found:
        raise UsageProblem(f"{text!r} is not a size", "write it like 24GiB or 8192MiB")
    unit = {"k": 10, "m": 20, "g": 30, "t": 40}.get((found[2] or "").lower(), 0)
    size = int(float(found[1]) * (1 << unit)) if "." in found[1] else int(found[1]) << unit
    if unit == 0 and size < MIB:
        raise UsageProblem(f"{text!r} has no unit", f"write {found[1]}GiB or {found[1]}MiB")
    return size


@cache
def _entries() -> tuple[_Entry, ...]:
    return tuple(
        _Entry(
            _key(row.name),
            frozenset(_split_size(alias)[1] for alias in row.drivers),
            GpuModel(
                name=f"{row.name} {size} GB",
                vendor=row.vendor,
                vram_bytes=size * GIB,
                bandwidth_bytes_s=round(row.gb_s * 1e9),
                unified=row.unified,
                ecc=row.ecc,
            ),
        )
        for row in ROWS
        for size in row.sizes_gib
    )


def _key(name: str) -> str:
    """What of a name tells GPUs apart: lower case, no maker, no filler, no space, no bracket."""
    words = re.findall(r"[a-z0-9+.]+", re.sub(r"\([^)]*\)", " ", name.lower()))
    kept = [w for w in words if w not in FILLERS]
    return "".join(kept)


def _by_key(key: str) -> list[_Entry]:
    """The rows of this name; "4090" and "7900 XTX" do without their RTX and RX."""
    if not key:
        return []
    exact = [e for e in _entries() if key == e.key or key in e.aliases]
    if exact or not key[0].isdecimal():
        return exact
    return [e for e in _entries() if e.key in (f"rtx{key}", f"gtx{key}", f"rx{key}")]


def _named(name: str) -> tuple[list[_Entry], int | None]:
    """The rows that a name means, and the size in GiB that it asks for."""
    size_gib, key = _split_size(name)
    if entries := _by_key(key):
        return entries, size_gib
    bare = re.fullmatch(r"(.*\D)\s+(\d{1,3})", name.strip())  # "RTX 4060 Ti 16"
    if size_gib is None and bare and (entries := _by_key(_key(bare[1]))):
        return entries, int(bare[2])
    whole = name.lower().replace(" ", "")  # "rtx4060ti16gb"
    return [e for e in _entries() if whole == e.model.name.lower().replace(" ", "")], None


def _split_count(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(.*?\S)\s*(?::\s*|\s[x×]\s*)(\d{1,9})\s*", text)
    if not found and ":" in text:
        raise UsageProblem(f"{text!r} has no count after its colon", "write it like RTX 4090:2")
    if not found:
        return text, 1
    if not 1 <= int(found[2]) <= MAX_COUNT:
        raise UsageProblem(
            f"{text!r} asks for {found[2]} GPUs", f"give a count of 1 to {MAX_COUNT}"
        )
    return found[1], int(found[2])


def _split_size(name: str) -> tuple[int | None, str]:
    """(GiB or None, key of the rest). The size may stand anywhere: "A100 80GB PCIe"."""
    found = re.search(r"(?<![a-z0-9.])(\d{1,5})\s*g(?:i?b)?\b", name, re.IGNORECASE)
    if not found:
        return None, _key(name)
    return int(found[1]), _key(f"{name[: found.start()]} {name[found.end() :]}")


def _near(key: str) -> list[str]:
    """Names like `key`: those that begin with it first ("a100" -> both A100 boards)."""
    entries = _entries()
    begins = [e.model.name for e in entries if key and e.key.startswith(key)]
    close = difflib.get_close_matches(key, [e.key for e in entries], n=4, cutoff=0.6)
    similar = [e.model.name for wanted in close for e in entries if e.key == wanted]
    return list(dict.fromkeys([*begins, *similar]))[:6]


def _quoted(names: Sequence[str]) -> str:
    *most, last = (f'"{name}"' for name in names)
    return f"{', '.join(most)} or {last}" if most else last
